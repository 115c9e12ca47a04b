"""The start of a training: the base, the teacher and the rows are loaded, or refused."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.backends.layers import LayeredNetwork
from model.checkpoint import CheckpointError, location_of, read_settings, refuse_unsafe
from model.command import option
from model.reading.network import position_limit, takes_types
from model.reading.reader import bfloat16_is_faster, resolve_device
from model.reading.tokenizer import Tokenizer
from model.settings import SettingError
from model.training.attention import use_plain_products
from model.training.data import (
    NULL,
    TrainingWindows,
    make_examples,
    read_training_rows,
    refuse_known,
    usable_windows,
    with_joined_passages,
    with_unanswerables,
)
from model.training.distillation import load_teacher
from model.training.joint import OBJECTIVES, golds_without_joint
from model.training.state import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("spanmill.train")


def prepare(options: argparse.Namespace) -> Training:
    """Load the base and the teacher, read the rows, and return a training that has not begun."""
    base, tokenizer, network, split = _load_base(options)
    teacher = load_teacher(options, tokenizer)
    _make_trainable(network, options.dropout)
    if options.frozen_layers:
        with option("frozen_layers", options.frozen_layers):
            _freeze(network, options.frozen_layers)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=moving_average(options.average)
    )
    # Biases and the gains of layer norms are vectors; only matrices decay.
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        fused=True,
    )
    examples, usable = _read_examples(options, tokenizer)
    if teacher:
        with option("teacher", options.teacher):
            teacher.attend(examples, usable, options.max_question)
    # Evaluations measure answerable rows only, so that at least one must be among them.
    eval_rows: list[dict] = []
    if options.eval:
        eval_rows = read_training_rows(options.eval, given_as="eval")[:: options.eval_every_nth]
    if options.eval and not any(row["answers"]["text"] for row in eval_rows):
        raise SettingError(f"eval={options.eval}: no row that is evaluated on has an answer")
    _log.info("%d rows to evaluate on", len(eval_rows))
    return Training(
        options, base, split, tokenizer, teacher, network, average, optimizer, examples, eval_rows
    )


def _load_base(
    options: argparse.Namespace,
) -> tuple[str, Tokenizer, PreTrainedModel, int | None]:
    """Load the checkpoint to start from; return its folder, tokenizer, network and split.

    The split is `--split`, else the base's own; None for a whole reader.

    Raises SettingError for one that can't be trained with these options.
    """
    from transformers import AutoModelForQuestionAnswering

    with option("base", options.base or "bundled"):
        folder = location_of(options.base or "bundled").folder()
        refuse_unsafe(folder)
        tokenizer = Tokenizer(folder)
        try:
            network = AutoModelForQuestionAnswering.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True
            )
        except Exception as error:
            raise CheckpointError(f"its network can't be loaded: {error}") from error
        # A token without an embedding would fail in the middle of the training.
        rows = int(network.get_input_embeddings().num_embeddings)
        if tokenizer.vocabulary_size > rows:
            raise CheckpointError(
                f"its tokenizer has {tokenizer.vocabulary_size} tokens, but its network embeds "
                f"{rows}"
            )
        split = options.split or read_settings(folder).split
    if split:
        with option("split", split):
            LayeredNetwork(network, split, takes_types(network))
            tokenizer.format = tokenizer.format.split(options.max_question)
    # The options must fit the checkpoint.
    most = min(tokenizer.max_length, position_limit(network) or tokenizer.max_length)
    if options.max_length > most:
        raise SettingError(
            f"max_length={options.max_length}: the network takes at most {most} tokens"
        )
    if options.null and tokenizer.format.classifier is None:
        raise SettingError(
            "null: the tokenizer puts no classifier token into a pair, train with --no-null"
        )
    return str(folder), tokenizer, network, split


def _make_trainable(network: PreTrainedModel, dropout: float) -> None:
    """Set every dropout of a network, and move it to the GPU if there is one, in training mode."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        # Some networks keep the dropout of their attention as a number.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout
    device = resolve_device("auto")
    if device.type == "cpu" and bfloat16_is_faster(device):
        use_plain_products(network)
    network.to(device).train()


def moving_average(decay: float) -> Callable[..., None]:
    """Return the update of an exponential moving average of weights, for torch's `AveragedModel`.

    After n steps the decay is (1 + n) / (10 + n), at most `decay` (as in TensorFlow's
    ExponentialMovingAverage): with a constant one, a short training would save little else than the
    weights that it started from.
    """

    def update(averages: list[Any], weights: list[Any], steps: torch.Tensor | int) -> None:
        ramp = (1 + int(steps)) / (10 + int(steps))
        torch.optim.swa_utils.get_ema_multi_avg_fn(min(decay, ramp))(averages, weights, steps)

    return update


def _freeze(network: PreTrainedModel, layers: int) -> None:
    """Freeze the embeddings and the `layers` lowest layers of a network.

    A step then runs only the forward pass through them, and the optimiser keeps no state for them.

    Raises ValueError for a network of unknown family, and if no layer would be left to train.
    """
    upper = LayeredNetwork(network, layers, takes_types(network)).upper
    # Freeze everything but the upper layers and the head: one trained weight below them would need
    # the whole backward pass.
    network.base_model.requires_grad_(False)
    for layer in upper:
        layer.requires_grad_(True)


def _read_examples(
    options: argparse.Namespace, tokenizer: Tokenizer
) -> tuple[TrainingWindows, np.ndarray]:
    """Read the training rows, add the made ones, and cut all into windows.

    Returns the windows, and which of them to train on (see `usable_windows`).

    Raises SettingError for rows that can't be trained on.
    """
    rows = read_training_rows(options.train, options.mix, options.seed)
    unlabelled: list[dict] = []
    if options.unlabelled:
        unlabelled = read_training_rows(options.unlabelled, given_as="unlabelled", labelled=False)
    if options.keep_out:
        kept_out = refuse_known([*rows, *unlabelled], options.keep_out)
        _log.info(
            "none of %d passages of %s is among the training rows", kept_out, options.keep_out
        )
    # Without the null option, unanswerable rows would have no target.
    rows = with_unanswerables(
        rows, options.unanswerable_share if options.null else 0.0, options.seed
    )
    rows = with_joined_passages(rows, options.joined_share, options.joined_passages, options.seed)
    # Rows are made from labelled ones only, which come first.
    groups = 1 + rows[-1]["group"]
    rows += [{**row, "group": groups + k} for k, row in enumerate(unlabelled)]
    with option("overlap", options.overlap):
        examples = make_examples(
            rows, tokenizer, options.max_length, options.overlap, options.max_question
        )
    usable = usable_windows(examples, options.null, options.shared_normalisation)
    if not (examples.start[usable] >= (NULL if options.null else 0)).any():
        raise SettingError(f"train={options.train}: no window has a target to learn from")
    _log.info("%d rows, %d windows to train on", len(rows), len(examples.windows))
    if unlabelled:
        _log.info("%d of the rows are unlabelled: only the teacher teaches them", len(unlabelled))
    if options.objective in OBJECTIVES:
        without, golds = golds_without_joint(examples, options.max_answer_length)
        _log.info(
            "%d of %d golds are not spans that the decoder may choose (--max_answer_length=%d): "
            "trained with the categorical loss alone",
            *(without, golds, options.max_answer_length),
        )
    return examples, usable
