"""A checkpoint's own tokenizer: that of its tokenizer.json, whatever transformers makes of the class that it names.

transformers 5 takes little more than the vocabulary from tokenizer.json and builds the normalizer, the pre-tokenizer and
the model from the class in tokenizer_config.json. The network was trained with those of the file.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_log = logging.getLogger("spanmill")

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

_WORDS = (
    *(
        "The keeper's LAMP",
        "naïve Çé",
        "cafe\u0301 e\u0301",
        "straße ẞ",
        "Ångström A\u030a",
        "İstanbul ıI",
        "ﬁnal oﬃce",
    ),
    *(
        "Ναύαρχος ὁ",
        "Москва ёЙ",
        "и\u0306",
        "Երևան",
        "თბილისი",
        "ירושלים",
        "שָׁלוֹם",
        "القاهرة",
        "كِتَاب",
        "۱۲۳ ١٢٣",
    ),
    *(
        "हिन्दी क़िला",
        "বাংলা",
        "தமிழ்",
        "తెలుగు",
        "ಕನ್ನಡ",
        "മലയാളം",
        "ไทย กำลัง",
        "ລາວ",
        "မြန်မာ",
        "ខ្មែរ",
        "བོད",
    ),
    *(
        "አማርኛ",
        "ᏣᎳᎩ",
        "東京は日本",
        "ひらがな カタカナ",
        "か\u3099",
        "ｶﾞ ﾊﾟ",
        "北京",
        "𠮷野",
        "서울 한국어",
        "\u1106\u1161\u1109\u1175\u11af\u1112\u1162",
    ),
    *(
        "２０２４ Ａｂ",
        "1,400.5 m² x₂",
        "½ Ⅷ ①",
        "𝐀𝒃",
        "a\u200db",
        "co\u00adop",
        "don't—stop…",
        "A/B_c",
        "$5 €6 #7 @x",
        "👋🏽 🏳️\u200d🌈",
    ),
)
"""Words of many scripts, in both cases, composed and decomposed, with marks, ligatures, digits, joiners and symbols."""

_FRAMES = (
    "{}",
    "I {}",
    "{} I",
    "x{}y",
    "({}), “{}”.",
    "  {}\t{}\n\n{}\u00a0{}\u3000{}\u2028{} ",
    "{} <b>[{}]</b>",
)
"""Places of a word: first, after a short word, before one, inside one, between marks, between white space of many kinds."""

PROBE = [frame.replace("{}", word) for word in _WORDS for frame in _FRAMES] + [" ".join(_WORDS)]
"""Texts that show whether two tokenizers are the same, and whether one gives the places of all that it reads."""


class TokenizerError(ValueError):
    """The checkpoint's tokenizer can't be used: no fast tokenizer, or a pair format that hides one of the texts."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a checkpoint's files say of its tokenizer.

    backend     the tokenizer, without truncation and padding; the tokens of its roles, and no others, are special
    roles       ids of the tokens that have a role in a model's input, by its name: "cls", "pad", ...
    pads_right  whether it pads on the right
    max_length  its `model_max_length`, which may be 1e30
    """

    backend: tokenizers.Tokenizer
    roles: dict[str, int]
    pads_right: bool
    max_length: float


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """The tokenizer of a folder. Raises TokenizerError if there is no fast one.

    Its tokens are those of tokenizer.json, where there is one. The class that the checkpoint names gives what no file does: the
    side of the padding, roles, how a pair is joined. A line of the log says where the two have other tokens.
    """
    built, failure = _build(folder)
    own = _own(folder, built) if (folder / "tokenizer.json").is_file() else None
    if own is None and built is None:
        raise TokenizerError(
            f"no tokenizer can be loaded from {folder}: {_reason(folder, failure)}"
        ) from failure
    sources = [source for source in (own, built) if source is not None]
    for source in sources:
        source.backend_tokenizer.no_truncation()
        source.backend_tokenizer.no_padding()
    backend = sources[0].backend_tokenizer
    if built is not None and not backend.num_special_tokens_to_add(
        True
    ):  # the file joins no pairs, the class may
        backend.post_processor = built.backend_tokenizer.post_processor
    if own is not built and own is not None:
        _report(folder, backend, built, failure)
    roles: dict[str, int] = {}
    for role in _ROLES:
        for source in sources:
            token = getattr(source, f"{role}_token")
            token_id = None if token is None else backend.token_to_id(str(token))
            if token_id is not None:
                roles.setdefault(role, token_id)
    return TokenizerFiles(
        backend=_only_roles_are_special(backend, set(roles.values())),
        roles=roles,
        pads_right=sources[-1].padding_side == "right",
        max_length=sources[-1].model_max_length,
    )


def _build(folder: Path) -> tuple[PreTrainedTokenizerFast | None, Exception | None]:
    """What transformers makes of the class that the checkpoint names, or why it can't.

    Raises TokenizerError for what no tokenizer.json mends: a tokenizer without offsets, or one that needs a package.
    """
    from transformers import (
        AutoTokenizer,
    )  # half a second to import: only where a tokenizer is loaded

    try:
        built = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except ImportError as error:
        raise TokenizerError(
            f"no tokenizer can be loaded from {folder}: {_reason(folder, error)}"
        ) from error
    except Exception as error:
        return None, error
    if not built.is_fast:
        raise TokenizerError(
            f"{type(built).__name__} is not a fast tokenizer: it has no character offsets"
        )
    names = sorted(built.vocab_files_names.values())
    if not any(
        (folder / name).is_file() for name in names
    ):  # transformers makes an empty one from nothing
        raise TokenizerError(f"{folder} has no tokenizer, neither of {', '.join(names)}")
    return built, None


def _reason(folder: Path, failure: Exception | None) -> str:
    """Why a folder without tokenizer.json has no tokenizer: transformers names another package than the one that it lacks."""
    pieces = sorted(path.name for path in folder.glob("*.model"))
    if not pieces:
        return str(failure)
    has = f"it has no tokenizer.json, but a SentencePiece model, {pieces[0]}"
    if importlib.util.find_spec("sentencepiece") is None:
        return f"{has}, which needs pip install 'spanmill[sentencepiece]'"
    used = f"sentencepiece {version('sentencepiece')} and transformers {version('transformers')}"
    return (
        f"{has}, which {used} can't read ({failure}): pip install 'spanmill[sentencepiece]' for a version that may, or have "
        "transformers 4 save a tokenizer.json"
    )


def _own(folder: Path, built: PreTrainedTokenizerFast | None) -> PreTrainedTokenizerFast | None:
    """The tokenizer of tokenizer.json, with the tokens and roles that the other files declare. Raises TokenizerError.

    None if the file holds only a part of the tokenizer: a pre-tokenizer that is code (RoFormer's splits Chinese words) can't
    be written to it.
    """
    from transformers import PreTrainedTokenizerFast

    if built is not None:
        if type(built) is PreTrainedTokenizerFast:  # reads the file itself
            return built
        try:
            if built.backend_tokenizer.pre_tokenizer is not None:
                built.backend_tokenizer.pre_tokenizer.__getstate__()
        except Exception:
            return None
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise TokenizerError(f"no tokenizer can be loaded from {folder}: {error}") from error


def _report(
    folder: Path,
    own: tokenizers.Tokenizer,
    built: PreTrainedTokenizerFast | None,
    failure: Exception | None,
) -> None:
    """Logs that the tokens of tokenizer.json were chosen, if the class that the checkpoint names makes others."""
    if built is None:
        _log.warning(
            "%s: read with its tokenizer.json; its tokenizer class can't be built (%s)",
            folder,
            failure,
        )
        return
    pairs = zip(own.encode_batch(PROBE), built.backend_tokenizer.encode_batch(PROBE), strict=True)
    differing = [
        text for text, (mine, theirs) in zip(PROBE, pairs, strict=True) if mine.ids != theirs.ids
    ]
    if differing:
        _log.warning(
            "%s: read with its tokenizer.json, not as %s of transformers: they differ on %d of %d texts, such as %r",
            *(folder, type(built).__name__, len(differing), len(PROBE), differing[0]),
        )


def _only_roles_are_special(backend: tokenizers.Tokenizer, roles: set[int]) -> tokenizers.Tokenizer:
    """The tokenizer that reads "[SEP]" in a text as text, for it is no separator there.

    Additional special tokens ("[PAR]", "<extra_id_0>") remain tokens: texts that the network was trained with have them.
    """
    added = backend.get_added_tokens_decoder()
    if any(token.special != (token_id in roles) for token_id, token in added.items()):
        settings = json.loads(backend.to_str())
        for token in settings["added_tokens"]:
            token["special"] = token["id"] in roles
        backend = tokenizers.Tokenizer.from_str(json.dumps(settings))
    backend.encode_special_tokens = True
    return backend
