"""A checkpoint's network, loaded on its device and tried before it is used."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.backends import cuda_network
from model.backends.cpu_network import quantise, quicken
from model.backends.layers import LayeredNetwork
from model.checkpoint import CheckpointError, read_settings
from model.reading.batching import Batch, assemble, to_device
from model.reading.split import SplitNetwork
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits, cut_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("spanmill")

_COMPARE_TYPES = ("xlnet", "funnel")
"""Networks that compare token types instead of embedding them; they have no `type_vocab_size`."""

_STATELESS = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra"),
    *("mobilebert", "modernbert", "mpnet", "roberta", "xlm-roberta", "xlnet"),
)
"""Networks whose `forward` is known not to change them, so that several lanes may call it at once.

A counterexample is BigBird, which switches its attention when it meets a short input.
"""

_PROBE_TOKENS = 144
"""Tokens of the long probe: more than the blocks in which some networks read."""

_TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.1, torch.float16: 0.05, torch.int8: 0.1}
"""Largest difference between two calls, as a share of the largest logit: a few roundings."""


class Network:
    """A loaded network on its device.

    device       where it computes
    takes_types  whether it distinguishes token types
    vocabulary   rows of its token embedding; token ids must be lower
    positions    most tokens of a window, None without a limit
    padding      the token id that it takes for padding, None if its config names none
    stateless    whether several threads may call it at once
    one_length   whether padding changes its results, so that it gets windows of one length at a
                 time; False until `try_on`
    split        of a split reader: what reads question and passage apart; else None

    Raises CheckpointError for a checkpoint without such a network.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, compile: bool):
        in_int8 = dtype == torch.int8
        if in_int8 and device.type != "cpu":
            raise CheckpointError(f"dtype int8 is for a CPU, and the network's device is {device}")
        network = _load(folder, torch.float32 if in_int8 else dtype)
        self.takes_types = takes_types(network)
        self.vocabulary = _vocabulary(network, folder)
        self.positions = position_limit(network)
        self.padding: int | None = getattr(network.config, "pad_token_id", None)
        self.device = device
        for module in network.modules():
            # A head that rounds to half precision would tie neighbouring spans. Its few weights
            # compute in float32.
            if isinstance(module, torch.nn.Linear) and module.out_features == 2:
                module.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        network = network.to(device).eval()
        settings = read_settings(folder)
        if compile and (settings.split or in_int8):
            kind = "a split reader" if settings.split else "a network in int8"
            _log.warning("--compile: %s runs without torch.compile", kind)
            compile = False
        compiled = _compiled(network) if compile else None
        if in_int8:
            try:
                quantise(network)
            except Exception as error:
                raise CheckpointError(
                    f"the network in {folder} can't compute in int8 on this machine: {error}"
                ) from error
        elif device.type == "cpu" and compiled is None:  # a compiler packs and fuses by itself
            quicken(network)
        if device.type == "cuda":
            cuda_network.run_ahead(network)
        self.maskless = network.config._attn_implementation == cuda_network.ATTENTION
        self.folder, self.dtype = folder, dtype
        self.split = None
        if settings.split and settings.passage_position:
            try:
                layered = LayeredNetwork(network, settings.split, self.takes_types)
            except ValueError as error:
                raise CheckpointError(f"{folder}: {error}") from error
            self.split = SplitNetwork(layered, settings.passage_position, self.maskless)
        self.one_length = False
        self.forward: Any = network if compiled is None else compiled
        self.stateless = network.config.model_type in _STATELESS and compiled is None

    def try_on(self, tokenizer: Tokenizer) -> None:
        """Call the network with a short and a long pair, and adapt to what it does.

        A network that lets padding change its results gets batches of one length from then on.

        Raises CheckpointError for a network that fails (because it needs a fixed number of
        separators, can't compute in the dtype or wants images, for example), that has fewer
        embeddings than the tokenizer has tokens, that draws random numbers, or whose layers give
        other results apart.
        """
        if tokenizer.vocabulary_size > self.vocabulary:
            raise CheckpointError(
                f"{self.folder}: its tokenizer has {tokenizer.vocabulary_size} tokens, but the "
                f"network embeds {self.vocabulary}: they do not match"
            )
        capacity = min(self.positions or tokenizer.max_length, tokenizer.max_length)
        try:
            short, padded = _probes(tokenizer, capacity)
            with torch.inference_mode():
                alone, first, second = (
                    torch.stack(self(batch)) for batch in (short, padded, padded)
                )
                whole = first
                if self.split is not None:
                    whole = torch.stack(self.split.read_whole(padded))
        except Exception as error:
            raise CheckpointError(
                f"the network in {self.folder} can't read tokens in {self.dtype}: {error}"
            ) from error

        # The same batch twice must give the same logits.
        tolerance, real = _TOLERANCE[self.dtype], padded.attention.to(self.device)
        if _differ(first[:, real], second[:, real], tolerance):
            raise CheckpointError(
                f"the network in {self.folder} draws random numbers: it answers the same question "
                "differently every time"
            )
        if _differ(whole[:, real], first[:, real], tolerance):
            raise CheckpointError(
                f"the network in {self.folder} reads question and passage apart with other results "
                "than together under a mask"
            )
        # So must a window with and without padding after it.
        if _differ(alone[:, 0], first[:, 0, : alone.shape[2]], tolerance):
            if self.split is not None:
                raise CheckpointError(
                    f"the network in {self.folder} can't be a split reader: padding changes its "
                    "results"
                )
            _log.info(
                "%s: padding changes the network's results, so it gets windows of one length at a "
                "time",
                self.folder,
            )
            self.one_length = True

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits of a batch, float32 [B, L] each, on the network's device."""
        if self.split is not None:
            return self.split(batch)
        if not self.one_length or batch.attention.all():
            return self._read(batch.input_ids, batch.token_types, batch.attention)
        # Run each length by itself; padding gets logits of 0, which nothing uses.
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
        # A GPU's fastest attention takes no mask. `attention` is still on the host, so that looking
        # at it doesn't wait for the GPU.
        if not (self.maskless and attention.all()):
            inputs["attention_mask"] = to_device(attention, self.device).to(torch.int64)
        if self.takes_types:
            inputs["token_type_ids"] = to_device(types, self.device)
        output = self.forward(**inputs, return_dict=True)
        return output.start_logits.float(), output.end_logits.float()


def _load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a question answering network. Raises CheckpointError, also for untrained weights."""
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
    # transformers fills missing weights with random numbers; such heads never answer.
    absent = sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"]))
    if absent:
        more = " and others" if len(absent) > 5 else ""
        raise CheckpointError(
            f"{folder} lacks trained weights for {', '.join(absent[:5])}{more}: it is not a "
            "question answering checkpoint"
        )
    return network


def takes_types(network: PreTrainedModel) -> bool:
    """Return whether a network distinguishes token types."""
    if "token_type_ids" not in inspect.signature(network.forward).parameters:
        return False
    if network.config.model_type in _COMPARE_TYPES:
        return True
    return getattr(network.config, "type_vocab_size", 0) > 1


def position_limit(network: torch.nn.Module) -> int | None:
    """Return how many tokens a network's position embeddings allow; None without a limit.

    RoBERTa and its relatives reserve the positions up to the padding index; these don't count.
    """
    # Count the embedding's rows rather than trust the config, which may say something else.
    limits = []
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - reserved)
    declared = getattr(network.config, "max_position_embeddings", None)
    # Networks with relative or rotary positions embed none, but may declare a limit.
    if not limits and isinstance(declared, int) and declared > 0:
        limits.append(declared)
    return min(limits) if limits else None


def _vocabulary(network: PreTrainedModel, folder: Path) -> int:
    """Return the rows of a network's token embedding. Raises CheckpointError without one."""
    # A network that embeds no tokens has no such method, raises in it, or returns None or a module
    # without such weights, by its class.
    try:
        return len(network.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise CheckpointError(
            f"the network in {folder} has no embedding of tokens: {type(network).__name__}"
        ) from error


def _probes(tokenizer: Tokenizer, capacity: int) -> tuple[Batch, Batch]:
    """Return a batch of one short window, and one of the same window with a long one.

    capacity  most tokens of a window
    """
    max_length = min(capacity, _PROBE_TOKENS)
    max_question = max(1, max_length // 8)
    # A split reader has no positions to spare for the question tokens that it does not get.
    if (most := tokenizer.format.most_question) is not None:
        max_question = min(max_question, most)
        max_length = min(max_length, capacity - (most - max_question))
    sentence = "Ada Kern lit the lamp of the north pier at dusk. "
    windows = cut_windows(
        tokenizer.format,
        tokenizer.passages([sentence[: max_length // 4], sentence * max_length]),
        tokenizer.questions(["Who lit it?"]),
        np.array([0, 1, 0, 1]),  # asked twice, so that a split reader reads them apart
        np.array([0, 0, 0, 0]),
        WindowLimits(max_length, 0, max_question, 2**31 - 1),
    )
    return assemble(windows, np.array([0])), assemble(windows, np.array([0, windows.counts[0]]))


def _differ(first: torch.Tensor, second: torch.Tensor, tolerance: float) -> bool:
    """Return whether logits differ by more than rounding; False if any of them is not finite."""
    return bool((first - second).abs().max() > tolerance * first.abs().max())


def _compiled(network: PreTrainedModel) -> Any:
    """Return the network compiled by torch.compile; None, with a warning, if that fails.

    torch.compile needs a C++ compiler (on a GPU, Triton) and works at the first call. This makes
    that call, so that a failure shows here and not in every batch.
    """
    tokens = torch.zeros((2, 16), dtype=torch.int64, device=network.device)
    compiled = torch.compile(network, dynamic=True)
    try:
        with torch.inference_mode():
            compiled(input_ids=tokens, attention_mask=torch.ones_like(tokens), return_dict=True)
    except Exception as error:
        _log.warning(
            "--compile: torch.compile failed, the network runs without it: %s",
            str(error).strip().splitlines()[0],
        )
        return None
    return compiled
