"""The reader: an encoder with a start and an end network over the context's tokens, behind a contract of four methods."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch

from model.backends import cuda_network
from model.backends.cpu_network import multiplies_bfloat16, quicken
from model.backends.lanes import lanes_of
from model.checkpoint import CheckpointError, Location, digest, refuse_unsafe
from model.reading.batching import Batch, assemble, to_device
from model.reading.tokenizer import Tokenizer
from model.reading.windows import cut_windows
from model.settings import BOTH, flag, one_of, setting, text, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("spanmill")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_COMPARE_TYPES = ("xlnet", "funnel")
"""Networks that compare token types instead of embedding them: their configs have no `type_vocab_size`."""


_STATELESS = (
    *(
        "albert",
        "bert",
        "camembert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "mobilebert",
        "modernbert",
        "mpnet",
    ),
    *("roberta", "xlm-roberta", "xlnet"),
)
"""Networks whose `forward` is known to change nothing in them, so that lanes may call it at once; BigBird's, for one, does."""


_PROBE_TOKENS = 144
"""Of the longest window that a network is tried on: more than the pieces in which some networks read."""

_MOVED = {torch.float32: 2e-4, torch.bfloat16: 0.1, torch.float16: 0.05}
"""By how much of the greatest logit other logits may differ from call to call: several times what rounding does."""


@dataclass(frozen=True)
class ModelSettings:
    """Which checkpoint, and how its network runs."""

    model: str = setting(
        "bundled",
        text("DIR_OR_ID"),
        "folder, URL or hub id[@revision] of a question-answering checkpoint",
    )
    device: str = setting(
        "auto",
        text("DEVICE", r"auto|cpu|cuda(:[0-9]+)?", "auto, cpu, cuda or cuda:N"),
        "device of the network; auto is CUDA if available",
    )
    dtype: str = setting(
        "auto",
        one_of(auto="auto", **{name: name for name in DTYPES}),
        "type of the encoder's numbers; auto is bfloat16 where the device computes in it at full "
        "speed, else float32",
        identity=BOTH,
    )
    compile: bool = setting(
        False,
        flag(),
        "compile the network with torch.compile: slower to start, faster on long runs",
    )
    batch_tokens: int = setting(
        4096,
        whole(1, 10**8),
        "padded tokens per batch",
        unset="4096 on a CPU, 65536 on CUDA",
        identity=BOTH,
    )


class Reader(Protocol):
    """What the prediction loop needs of a model. Readers are picklable values that compare by what they load."""

    def load(self) -> None:
        """Loads the network, once. Raises CheckpointError or TokenizerError."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without loading the network. Raises TokenizerError."""
        ...

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw start and end logits of a batch, float32 [B, L] each, on the reader's device. Lanes call it at once."""
        ...

    def lanes(self) -> int:
        """How many batches may be worked on at a time, see `model.backends.lanes`."""
        ...


AnyReader = TypeVar("AnyReader", bound=Reader)

_shared: dict[Any, Any] = {}
"""A reader to the first that equals it, of the same type."""
_shared_lock = threading.Lock()


def shared(reader: AnyReader) -> AnyReader:
    """The one reader of this process that equals `reader`: all threads and steps use one loaded network."""
    with _shared_lock:
        return _shared.setdefault(reader, reader)


@dataclass(frozen=True)
class CheckpointReader:
    """Any `AutoModelForQuestionAnswering` checkpoint with a fast tokenizer and safetensors weights.

    location  where the checkpoint is
    digest    of its files, checked when it is loaded ("" checks nothing)
    device    "auto" (CUDA if there is one that works), "cpu", "cuda" or "cuda:N"
    dtype     of the encoder: "float32", "bfloat16" or "float16"; the start and end networks always compute in float32
    compile   whether to pass the network through torch.compile, where it can
    """

    location: Location
    digest: str = ""
    device: str = "auto"
    dtype: str = "float32"
    compile: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {
            field.name: getattr(self, field.name) for field in fields(self)
        }  # never the loaded network

    @cached_property
    def folder(self) -> Path:
        folder = self.location.folder()
        refuse_unsafe(folder)
        if self.digest and digest(folder) != self.digest:
            raise CheckpointError(
                f"the checkpoint in {folder} is not the one that this run was started with"
            )
        return folder

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self.folder)

    @cached_property
    def _network(self) -> _Network:
        network = _Network(
            self.folder, resolve_device(self.device), DTYPES[self.dtype], self.compile
        )
        network.try_on(self._tokenizer)
        return network

    def load(self) -> None:
        with _shared_lock:
            _ = self._network

    def tokenizer(self) -> Tokenizer:
        with _shared_lock:
            return self._tokenizer

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return self._network(batch)

    def lanes(self) -> int:
        return lanes_of(self._network.device) if self._network.stateless else 1

    def positions(self) -> int | None:
        """How many tokens a window may have for the network's position embeddings; None if it has no limit."""
        return self._network.positions

    def vocabulary(self) -> int:
        """Rows of the network's embedding: token ids must be lower."""
        return self._network.vocabulary

    def padding(self) -> int | None:
        """The token id that the network takes for padding, if its config says."""
        return self._network.padding


def resolve_device(device: str) -> torch.device:
    """The torch device of `--device`. Raises ValueError for one that this machine does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and _cuda_computes() else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return resolved


@cache
def _cuda_computes() -> bool:
    """Whether the first CUDA device multiplies: one may be there that this torch has no code for, or that others hold."""
    try:
        torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).cpu()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # AssertionError: this torch was built without CUDA
        _log.warning(
            "--device auto: the CUDA device can't be used, the CPU is (%s)",
            str(error).splitlines()[0],
        )
        return False
    return True


def resolve_dtype(dtype: str, device: str) -> str:
    """The dtype of `--dtype auto`: bfloat16 where that is the faster, else float32."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if bfloat16_is_faster(resolve_device(device)) else "float32"


@cache
def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether the device computes in bfloat16, and (a CPU) by far faster than in float32.

    A CPU's instruction sets don't tell: with AVX-512 BF16 it is by far the faster on one maker's cores, and by far the slower
    on another's (benchmarks/LOG.md), and oneDNN may be kept from using it. So one product of an encoder's size is timed, the
    least of some turns; 0.8 asks for enough that the same machine always says the same.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if (
        not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        or not multiplies_bfloat16()
    ):
        return False
    least = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(7):
        for dtype in least:
            tokens, weights = (
                torch.zeros(512, 384, dtype=dtype),
                torch.zeros(1536, 384, dtype=dtype),
            )
            started = time.perf_counter()
            torch.nn.functional.linear(tokens, weights)
            least[dtype] = min(least[dtype], time.perf_counter() - started)
    return least[torch.bfloat16] < 0.8 * least[torch.float32]


def takes_types(network: PreTrainedModel) -> bool:
    """Whether a network tells token types apart."""
    types = (
        2
        if network.config.model_type in _COMPARE_TYPES
        else getattr(network.config, "type_vocab_size", 0)
    )
    return "token_type_ids" in inspect.signature(network.forward).parameters and types > 1


class _Network:
    """A loaded network on its device."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, compile: bool):
        from transformers import AutoModelForQuestionAnswering
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        try:
            network, loading = AutoModelForQuestionAnswering.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise CheckpointError(f"the network in {folder} can't be loaded: {error}") from error
        absent = sorted(loading["missing_keys"]) + sorted(
            str(key) for key in loading["mismatched_keys"]
        )
        if absent:
            raise CheckpointError(
                f"{folder} lacks trained weights for {', '.join(absent[:5])}"
                f"{' and others' if len(absent) > 5 else ''}: no question answering checkpoint (untrained heads never answer)"
            )
        self.takes_types = takes_types(network)
        self.vocabulary = _vocabulary(network, folder)
        self.positions = position_limit(network)
        self.padding: int | None = getattr(network.config, "pad_token_id", None)
        self.device = device
        for module in network.modules():
            # In half precision a head's own rounding would tie neighbouring spans: its few weights compute in float32.
            if isinstance(module, torch.nn.Linear) and module.out_features == 2:
                module.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        network = network.to(device).eval()
        compiled = _compiled(network) if compile else None
        if device.type == "cpu" and compiled is None:  # a compiler packs and fuses by itself
            quicken(network)
        if device.type == "cuda":
            cuda_network.run_ahead(network)
        self.maskless = network.config._attn_implementation == cuda_network.ATTENTION
        self.folder, self.dtype = folder, dtype
        self.one_length = False
        self.forward: Any = network if compiled is None else compiled
        self.stateless = network.config.model_type in _STATELESS and compiled is None

    def try_on(self, tokenizer: Tokenizer) -> None:
        """Calls the network with real pairs, a short and a long one. Raises CheckpointError if it can't answer.

        Not every network reads every input: some count separators, some can't in half precision, some want images too.
        Some see their neighbours' padding, whatever the mask says: theirs are batches of one length. Some draw random
        numbers. All this is better found here than once per window.
        """
        tokens, rows = tokenizer.vocabulary_size, self.vocabulary
        if tokens > rows:
            raise CheckpointError(
                f"{self.folder}: its tokenizer has {tokens} tokens, but the network embeds {rows}: they do not match"
            )
        try:
            short, together = _probes(
                tokenizer, min(self.positions or _PROBE_TOKENS, tokenizer.max_length, _PROBE_TOKENS)
            )
            with torch.inference_mode():
                alone, beside, again = (
                    torch.stack(self(batch)) for batch in (short, together, together)
                )
        except Exception as error:
            raise CheckpointError(
                f"the network in {self.folder} can't read tokens in {self.dtype}: {error}"
            ) from error
        moved, real = _MOVED[self.dtype], together.attention.to(self.device)
        if _differ(beside[:, real], again[:, real], moved):
            raise CheckpointError(
                f"the network in {self.folder} draws random numbers: it answers the same question differently every time"
            )
        if _differ(alone[:, 0], beside[:, 0, : alone.shape[2]], moved):
            _log.info(
                "%s: padding reaches what the network reads, so that it reads windows of one length at a time",
                self.folder,
            )
            self.one_length = True

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.one_length or batch.attention.all():
            return self._read(batch.input_ids, batch.token_types, batch.attention)
        logits = torch.zeros(2, *batch.input_ids.shape, device=self.device)
        lengths = batch.attention.sum(1)
        for length in lengths.unique().tolist():
            rows = torch.nonzero(lengths == length).squeeze(1)
            inputs = (
                each[rows, :length]
                for each in (batch.input_ids, batch.token_types, batch.attention)
            )
            logits[:, rows.to(self.device), :length] = torch.stack(self._read(*inputs))
        return logits[0], logits[1]

    def _read(
        self, ids: torch.Tensor, types: torch.Tensor, attention: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = {"input_ids": to_device(ids, self.device)}
        if not (
            self.maskless and attention.all()
        ):  # asked on the host; without a mask a GPU has its fastest attention
            inputs["attention_mask"] = to_device(attention, self.device).to(torch.int64)
        if self.takes_types:
            inputs["token_type_ids"] = to_device(types, self.device)
        output = self.forward(**inputs, return_dict=True)
        return output.start_logits.float(), output.end_logits.float()


def _probes(tokenizer: Tokenizer, max_length: int) -> tuple[Batch, Batch]:
    """A window of a short passage, and the same beside one of `max_length` tokens."""
    sentence = "Ada Kern lit the lamp of the north pier at dusk. "
    windows = cut_windows(
        tokenizer.format,
        tokenizer.passages([sentence[: max_length // 4], sentence * max_length]),
        tokenizer.questions(["Who lit it?"]).cut(max(1, max_length // 8)),
        np.array([0, 1]),
        np.array([0, 0]),
        max_length=max_length,
        overlap=0,
        max_windows=2**31 - 1,
    )
    return assemble(windows, np.array([0])), assemble(windows, np.array([0, windows.counts[0]]))


def _differ(first: torch.Tensor, second: torch.Tensor, moved: float) -> bool:
    """Whether logits differ by more than rounding explains; what is not finite says nothing."""
    return bool((first - second).abs().max() > moved * first.abs().max())


def _vocabulary(network: PreTrainedModel, folder: Path) -> int:
    """Rows of the network's embedding. Raises CheckpointError for a network that does not embed tokens."""
    try:
        return len(network.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise CheckpointError(
            f"the network in {folder} has no embedding of tokens: {type(network).__name__}"
        ) from error


def _compiled(network: PreTrainedModel) -> Any:
    """The network as torch.compile makes it, or None where it can't: it needs a C++ compiler (on a GPU, Triton).

    torch compiles at the first call, here, so that it doesn't fail once per window.
    """
    tokens = torch.zeros((2, 16), dtype=torch.int64, device=network.device)
    compiled = torch.compile(network, dynamic=True)
    try:
        with torch.inference_mode():
            compiled(input_ids=tokens, attention_mask=torch.ones_like(tokens), return_dict=True)
    except Exception as error:
        _log.warning(
            "--compile: torch.compile can't, the network runs as it is: %s",
            str(error).strip().splitlines()[0],
        )
        return None
    return compiled


def position_limit(network: torch.nn.Module) -> int | None:
    """Positions that the network embeds, less those that RoBERTa's family gives up for its padding index."""
    limits = []
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - reserved)
    declared = getattr(network.config, "max_position_embeddings", None)
    if not limits and isinstance(declared, int) and declared > 0:
        limits.append(declared)
    return min(limits) if limits else None
