"""A training in progress: one step, evaluations, the state to resume from, and the checkpoint."""

from __future__ import annotations

import argparse
import json
import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.audit.metrics import grade
from model.backends.layers import LayeredNetwork
from model.checkpoint import copy_without_weights
from model.reading.batching import Batch, assemble
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.network import takes_types
from model.reading.posterior import merge_windows
from model.reading.prediction import predict
from model.reading.split import read_whole
from model.reading.tokenizer import Tokenizer
from model.settings import SettingError
from model.training.data import TrainingWindows, best_texts, make_examples
from model.training.distillation import Teacher, divergence
from model.training.loss import normalised_positions, passage_loss, targets_of, window_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("spanmill.train")

_EVALUATION_TOKENS = 4096
"""Padded tokens per batch of an evaluation."""

_FREE = {
    *("epochs", "max_minutes", "eval", "eval_every_nth", "eval_minutes", "keep_out", "output"),
    *("teacher_cache", "log_seconds", "save_minutes"),
}
"""Options that may change when a training is resumed: the others say what is trained."""


class TrainingReader:
    """The network being trained as a `Reader`, so that evaluation uses the pipeline's `predict`.

    split  how many lower layers read question and passage apart; None for a whole reader
    """

    def __init__(self, network: Any, tokenizer: Tokenizer, split: int | None = None):
        self.network = network
        self._tokenizer = tokenizer
        self._layered = LayeredNetwork(network, split, takes_types(network)) if split else None

    def load(self) -> None:
        """Do nothing: the network is already loaded."""

    def tokenizer(self) -> Tokenizer:
        """Return the base's tokenizer."""
        return self._tokenizer

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits, float32 [B, L] each, on the network's device."""
        position = self._tokenizer.format.passage_position
        if self._layered is not None and position is not None:
            return read_whole(self._layered, batch, position)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention.long()}
        if takes_types(self.network):
            inputs["token_type_ids"] = batch.token_types
        device = next(self.network.parameters()).device
        output = self.network(**{name: tensor.to(device) for name, tensor in inputs.items()})
        return output.start_logits.float(), output.end_logits.float()

    def lanes(self) -> int:
        """Return 1: only one thread uses the network."""
        return 1


def evaluate(
    reader: TrainingReader, rows: list[dict], options: argparse.Namespace
) -> dict[str, float]:
    """Return EM and F1, in per cent, of the best span of each answerable row.

    Unanswerable rows are left out: `model.calibrate` fits the null option after training.
    """
    rows = [row for row in rows if row["answers"]["text"]]
    # Decode with the pipeline's own windows, prediction and merging.
    examples = make_examples(
        rows, reader.tokenizer(), options.max_length, options.overlap, options.max_question
    )
    windows = examples.windows
    was_training = reader.network.training
    reader.network.eval()
    decoding = Decoding(n_best=1, max_answer_length=options.max_answer_length)
    observer = DecodeSpans(windows, decoding)
    predict(reader, windows, _EVALUATION_TOKENS, [observer])
    reader.network.train(was_training)
    spans = merge_windows(
        observer.result(), windows.pair, windows.index, len(rows), n_best=1, temperature=1.0
    )
    # Grade each answer against its best gold.
    texts = best_texts(spans, windows, [row["context"] for row in rows])
    golds = [row["answers"]["text"] for row in rows]
    scores = [grade(text, gold) for text, gold in zip(texts, golds, strict=True)]
    em, mean_f1 = 100 * np.mean(scores, axis=0)
    return {"em": round(float(em), 2), "f1": round(float(mean_f1), 2)}


@dataclass(slots=True)
class Training:
    """A training in progress: the network with what changes it, and how far it has come.

    base       folder of the checkpoint that the training started from
    split      how many lower layers read question and passage apart; None for a whole reader
    network    the network being trained, float32
    average    exponential moving average of its weights, which is what gets saved and evaluated
    eval_rows  rows to evaluate on; empty for no evaluation
    step       batches taken, those before a resumption included
    seconds    time spent training, evaluations excluded
    result     the last evaluation (see `evaluate`); empty before the first
    """

    options: argparse.Namespace
    base: str
    split: int | None
    tokenizer: Tokenizer
    teacher: Teacher | None
    network: PreTrainedModel
    average: torch.optim.swa_utils.AveragedModel
    optimizer: torch.optim.Optimizer
    examples: TrainingWindows
    eval_rows: list[dict]
    step: int = 0
    seconds: float = 0.0
    result: dict[str, float] = field(default_factory=dict)

    def resume(self) -> None:
        """Load the state of an earlier run from the output folder; no-op if there is none.

        Raises SettingError for a state that can't be loaded into this network, and for one of a
        training with other options.
        """
        path, output = self._state_file(), self.options.output
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            torch.set_rng_state(state["random"])
            began = state["options"]
        except Exception as error:
            short = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise SettingError(
                f"output={output}: its state.pt is damaged, or of another network ({short})"
            ) from error
        for name, value in self._fixed_options().items():
            if began.get(name) != value:
                raise SettingError(
                    f"output={output}: it has a training with {name}={began.get(name)!r}, not "
                    f"{value!r}: give another --output, or remove its state.pt"
                )
        _log.info("resuming from step %d, after %.1f minutes", self.step, self.seconds / 60)

    def save_state(self) -> None:
        """Write the state to resume from."""
        parts = {"network": self.network, "average": self.average, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": self.step, "seconds": self.seconds, "options": self._fixed_options()}
        # Dropout draws from torch's random numbers, everything else from the seed and the step.
        state["random"] = torch.get_rng_state()
        # Renaming is atomic: an interrupted write leaves the previous state in place.
        temporary = self._state_file().with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self._state_file())

    def _fixed_options(self) -> dict[str, Any]:
        """Return the options that say what is trained."""
        return {name: value for name, value in vars(self.options).items() if name not in _FREE}

    def _state_file(self) -> Path:
        return Path(self.options.output) / "state.pt"

    def evaluate(self) -> None:
        """Set `result` to the scores of the averaged weights on `eval_rows`."""
        reader = TrainingReader(self.average.module, self.tokenizer, self.split)
        self.result = evaluate(reader, self.eval_rows, self.options)

    def loss(
        self, chosen: np.ndarray, autocast: AbstractContextManager[Any]
    ) -> torch.Tensor | None:
        """Return the mean loss (scalar, nats) of windows `chosen` (int64 [B]); None without any.

        A batch may hold no target, of unlabelled rows or under shared normalisation; a teacher
        still gives it a loss.
        """
        options = self.options
        batch = assemble(self.examples.windows, chosen)
        targets = targets_of(self.examples, chosen, batch, options.null)
        with autocast:
            reader = TrainingReader(self.network, self.tokenizer, self.split)
            start_logits, end_logits = reader.logits(batch)
        # The losses group windows with numpy, and are small: compute them on the host, in float32.
        start_logits, end_logits = start_logits.cpu(), end_logits.cpu()
        if options.shared_normalisation:
            group = torch.from_numpy(self.examples.group[chosen])
            losses = passage_loss(start_logits, end_logits, batch, targets, group, options)
        else:
            # A window without a target is one of an unlabelled row: it learns from the teacher.
            has_target = targets[0] >= 0
            losses = window_loss(start_logits, end_logits, batch, targets.clamp(min=0), options)
            losses = losses[has_target]
        if not len(losses) and not self.teacher:
            return None
        loss = losses.sum() / max(1, len(losses))
        # Interpolate between the loss of the golds and the divergence from the teacher.
        if self.teacher:
            normalised = normalised_positions(batch, options.null)
            logits = torch.stack([start_logits, end_logits])
            probabilities = self.teacher.probabilities(chosen, batch)
            from_teacher = divergence(logits, probabilities, normalised).sum(0)
            loss = torch.lerp(loss, from_teacher.mean(), options.teacher_share)
        return loss

    def update(self, loss: torch.Tensor, learning_rate: float) -> None:
        """Take one optimiser step on a loss, with gradients clipped to norm `options.clip`."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip)
        self.optimizer.step()
        self.average.update_parameters(self.network)

    def save_checkpoint(self) -> None:
        """Write the averaged weights in float16, the tokenizer, settings and training.json."""
        options, output = self.options, Path(self.options.output)
        averaged: Any = self.average.module
        half = averaged.to(torch.float16)
        # The temperature and the threshold are fitted afterwards, by model.calibrate.
        shared = ", shared normalisation" if options.shared_normalisation else ""
        half.config.spanmill = {
            "null": options.null,
            "null_trained": options.null,
            "objective": options.objective + shared,
            "temperature": 1.0,
            "null_threshold": 0.0,
            "link": options.link,
        }
        if self.split:
            position = self.tokenizer.format.passage_position
            half.config.spanmill |= {"split": self.split, "passage_position": position}
        # The tokenizer is the base's to the byte: saved anew, it might cut texts otherwise.
        copy_without_weights(Path(self.base), output)
        half.save_pretrained(output)
        report = {"options": vars(options), "evaluation": self.result}
        (output / "training.json").write_text(json.dumps(report, indent=2))
