"""Load the tokenizer that a checkpoint's network was trained with: the one in its tokenizer.json.

transformers 5 takes little more than the vocabulary from tokenizer.json. It builds the normalizer,
the pre-tokenizer and the model from the class in tokenizer_config.json, which may differ from those
in the file.
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
"""Words of many scripts: both cases, composed and decomposed, marks, ligatures, digits, symbols."""

_FRAMES = (
    "{}",
    "I {}",
    "{} I",
    "x{}y",
    "({}), “{}”.",
    "  {}\t{}\n\n{}\u00a0{}\u3000{}\u2028{} ",
    "{} <b>[{}]</b>",
)
"""Surroundings of a word: none, a short word before, after, letters, marks, whitespace, markup."""

PROBE = [frame.replace("{}", word) for word in _WORDS for frame in _FRAMES] + [" ".join(_WORDS)]
"""Texts that show whether two tokenizers agree, and whether offsets cover all that is read."""


class TokenizerError(ValueError):
    """The checkpoint's tokenizer can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a checkpoint's files say about its tokenizer.

    backend     the tokenizer, without truncation and padding; exactly the tokens with a role are
                special
    roles       name of a role in a model's input ("cls", "pad", ...) -> id of its token
    pads_right  whether it pads on the right
    max_length  its `model_max_length`, which may be 1e30
    """

    backend: tokenizers.Tokenizer
    roles: dict[str, int]
    pads_right: bool
    max_length: float


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read the tokenizer of a checkpoint folder. Raises TokenizerError without a fast one.

    Tokens come from tokenizer.json if there is one. What that file does not have comes from the
    class that the checkpoint names: the padding side, roles, and how a pair is joined. Logs a
    warning if the two tokenize differently.
    """
    built, failure = _build(folder)
    own = _own(folder, built) if (folder / "tokenizer.json").is_file() else None
    if own is None and built is None:
        raise TokenizerError(
            f"no tokenizer can be loaded from {folder}: {_reason(folder, failure)}"
        ) from failure
    sources = [source for source in (own, built) if source is not None]
    # A checkpoint may have been saved with truncation or padding switched on.
    for source in sources:
        source.backend_tokenizer.no_truncation()
        source.backend_tokenizer.no_padding()
    backend = sources[0].backend_tokenizer
    # A tokenizer.json may lack the post-processor, which joins pairs; the class may have one.
    if built is not None and not backend.num_special_tokens_to_add(True):
        backend.post_processor = built.backend_tokenizer.post_processor
    if own is not None and own is not built:
        _report_differences(folder, backend, built, failure)
    roles = _roles(backend, sources)
    return TokenizerFiles(
        backend=_only_roles_are_special(backend, set(roles.values())),
        roles=roles,
        pads_right=sources[-1].padding_side == "right",
        max_length=sources[-1].model_max_length,
    )


def _roles(backend: tokenizers.Tokenizer, sources: list[PreTrainedTokenizerFast]) -> dict[str, int]:
    """Return role -> token id, from the first source whose token the backend has."""
    roles: dict[str, int] = {}
    for role in _ROLES:
        for source in sources:
            token = getattr(source, f"{role}_token")
            token_id = None if token is None else backend.token_to_id(str(token))
            if token_id is not None:
                roles.setdefault(role, token_id)
    return roles


def _build(folder: Path) -> tuple[PreTrainedTokenizerFast | None, Exception | None]:
    """Build the tokenizer of the class that the checkpoint names; return it, or why that failed.

    Raises TokenizerError for a failure that no tokenizer.json makes up for: a tokenizer without
    offsets, without files, or one that needs another package.
    """
    # This import takes half a second: pay for it only if a tokenizer is loaded.
    from transformers import AutoTokenizer

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
    # Without any vocabulary file, transformers builds an empty tokenizer and reports no error.
    names = sorted(built.vocab_files_names.values())
    if not any((folder / name).is_file() for name in names):
        raise TokenizerError(f"{folder} has no tokenizer: it has none of {', '.join(names)}")
    return built, None


def _reason(folder: Path, failure: Exception | None) -> str:
    """Return why a folder without tokenizer.json has no tokenizer.

    For a SentencePiece model, transformers names a package that is not the one that is missing.
    """
    # A SentencePiece model can be converted, but only with the package.
    pieces = sorted(path.name for path in folder.glob("*.model"))
    if not pieces:
        return str(failure)
    has = f"it has no tokenizer.json, but a SentencePiece model, {pieces[0]}"
    if importlib.util.find_spec("sentencepiece") is None:
        return f"{has}, which needs pip install 'spanmill[sentencepiece]'"
    used = f"sentencepiece {version('sentencepiece')} and transformers {version('transformers')}"
    return (
        f"{has}, which {used} can't read ({failure}): pip install 'spanmill[sentencepiece]' for a "
        "version that may, or have transformers 4 save a tokenizer.json"
    )


def _own(folder: Path, built: PreTrainedTokenizerFast | None) -> PreTrainedTokenizerFast | None:
    """Load tokenizer.json with the tokens and roles that the other files declare.

    Returns None if the file has only a part of the tokenizer: a pre-tokenizer that is code
    (RoFormer's splits Chinese words) can't be written to it. Raises TokenizerError for a damaged
    file.
    """
    from transformers import PreTrainedTokenizerFast

    if built is not None:
        # This class takes everything from the file already.
        if type(built) is PreTrainedTokenizerFast:
            return built
        # A pre-tokenizer that is code can't be pickled either.
        try:
            if built.backend_tokenizer.pre_tokenizer is not None:
                built.backend_tokenizer.pre_tokenizer.__getstate__()
        except Exception:
            return None
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise TokenizerError(f"no tokenizer can be loaded from {folder}: {error}") from error


def _report_differences(
    folder: Path,
    own: tokenizers.Tokenizer,
    built: PreTrainedTokenizerFast | None,
    failure: Exception | None,
) -> None:
    """Log that tokenizer.json is used, if the checkpoint's tokenizer class tokenizes otherwise."""
    if built is None:
        _log.warning(
            "%s: using its tokenizer.json; its tokenizer class can't be built (%s)",
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
            "%s: using its tokenizer.json, not %s of transformers: they differ on %d of %d texts, "
            "such as %r",
            folder,
            type(built).__name__,
            len(differing),
            len(PROBE),
            differing[0],
        )


def _only_roles_are_special(backend: tokenizers.Tokenizer, roles: set[int]) -> tokenizers.Tokenizer:
    """Return the tokenizer changed so that exactly the tokens with a role are special.

    Special tokens are not recognised in texts: "[SEP]" in a text is not a separator. Additional
    ones without a role ("[PAR]", "<extra_id_0>") remain tokens, because texts that the network was
    trained on contain them.
    """
    added = backend.get_added_tokens_decoder()
    # An added token can't be changed in place: change it in the serialised tokenizer.
    if any(token.special != (token_id in roles) for token_id, token in added.items()):
        settings = json.loads(backend.to_str())
        for token in settings["added_tokens"]:
            token["special"] = token["id"] in roles
        backend = tokenizers.Tokenizer.from_str(json.dumps(settings))
    backend.encode_special_tokens = True
    return backend
