"""Distillation: a span predictor learns from a teacher's predictions, in addition to the golds.

Hinton, Vinyals & Dean 2015 (arXiv:1503.02531): the loss pulls the student's softmax towards the
teacher's. The teacher's distribution carries information that golds lack: how plausible the tokens
near the gold are, and how likely it is that a question has no answer.

Teacher and student may have different tokenizers, as long as they cut passages into tokens at the
same characters: MPNet's word pieces are BERT's under other ids, and its pairs are joined by other
special tokens. The teacher reads the same slices of the passages in its own format, and what it
predicts for a token of the passage is taught at the student's token of the same characters.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import CheckpointError, digest, location_of, read_settings
from model.command import option
from model.reading.batching import Batch, assemble
from model.reading.reader import CheckpointReader, resolve_dtype
from model.reading.tokenizer import Passages, Tokenizer
from model.reading.tokenizer_files import PROBE
from model.reading.windows import Windows
from model.training.data import TrainingWindows
from model.training.loss import normalised_positions
from model.training.teacher_cache import ProbabilityStore, store_name, window_keys

_log = logging.getLogger("spanmill.train")


class Teacher:
    """A trained checkpoint, loaded in the dtype that is fastest on this machine."""

    def __init__(
        self,
        checkpoint: str,
        tokenizer: Tokenizer,
        max_length: int,
        null: bool,
        cache: str = "",
    ):
        """Load the teacher of a student with this tokenizer, window length and null option.

        cache  folder of stored probabilities (see `model.training.teacher_cache`); "" for none.
               With one, the network is loaded only when a window is not stored.

        Raises CheckpointError or TokenizerError if it can't be loaded, CheckpointError if it can't
        teach this student: other tokens, no softmax, no null option, too few positions, or lower
        layers that read apart.
        """
        self._checkpoint, self._null, self._cache = checkpoint, null, cache
        self._max_length = max_length
        self._reader = CheckpointReader(
            location_of(checkpoint), dtype=resolve_dtype("auto", "auto")
        )
        settings, own = read_settings(self._reader.folder), self._reader.tokenizer()
        self._refuse_misaligned(PROBE, tokenizer.passages(PROBE), own.passages(PROBE))
        if settings.link != "softmax":
            raise CheckpointError(
                f"the teacher {checkpoint} has link {settings.link}: it has no distribution over "
                "tokens"
            )
        if settings.split:
            raise CheckpointError(
                f"the teacher {checkpoint} is a split reader: teach with a whole one"
            )
        if null and not settings.null_trained:
            raise CheckpointError(
                f"the teacher {checkpoint} has no trained null option: train with --no-null"
            )
        if null and own.format.classifier is None:
            raise CheckpointError(
                f"the teacher {checkpoint} puts no classifier token into a pair: train with "
                "--no-null"
            )
        # Between more special tokens the same slice of a passage makes a longer window.
        more = own.format.special_tokens - tokenizer.format.special_tokens
        self._longest = max_length + more
        self._windows: Windows | None = None
        self._store: ProbabilityStore | None = None
        self._keys: list[bytes] = []
        self._is_loaded = False
        # The cheap refusals come before the network is loaded.
        if not cache:
            self._load()

    def attend(self, examples: TrainingWindows, usable: np.ndarray, max_question: int) -> None:
        """Prepare to teach windows of a student's examples; open the cache if there is one.

        usable        int64, indices of the windows that will be asked for
        max_question  tokens of a question that the teacher reads

        Raises CheckpointError if a passage has other tokens than the student's, or if a window is
        too long for the teacher; SettingError for an unusable cache.
        """
        tokenizer, windows = self._reader.tokenizer(), examples.windows
        passages = tokenizer.passages(examples.contexts)
        self._refuse_misaligned(examples.contexts, windows.passages, passages)
        questions = tokenizer.questions(examples.questions).cut(max_question)
        self._windows = dataclasses.replace(
            windows, format=tokenizer.format, passages=passages, questions=questions
        )
        longest = int(self._windows.lengths[usable].max(initial=0))
        self._longest = max(self._longest, longest)
        if self._is_loaded:
            self._refuse_too_long()
        if not self._cache:
            return
        with option("teacher_cache", self._cache):
            content = digest(self._reader.folder)
            folder = Path(self._cache) / store_name(content, self._null)
            description = {"teacher": self._checkpoint, "digest": content, "null": self._null}
            self._store = ProbabilityStore(folder, description)
        self._keys = window_keys(self._windows)
        missing = sum(self._keys[k] not in self._store for k in usable.tolist())
        _log.info("%d of %d windows lack stored probabilities", missing, len(usable))
        if missing:
            self._load()

    def probabilities(self, chosen: np.ndarray, batch: Batch) -> torch.Tensor:
        """Return start and end probabilities of windows, float32 [2, B, L], on the host.

        chosen  int64 [B], some of the windows that `attend` was given
        batch   the same windows in the student's layout, [B, L]

        For each window both sum to 1 over the student's softmax (see `normalised_positions`), and
        are 0 elsewhere.
        """
        if self._store is None:
            outcomes = self._predict(chosen)
        else:
            missing = [k for k in chosen.tolist() if self._keys[k] not in self._store]
            if missing:
                for k, computed in zip(missing, self._predict(np.array(missing)), strict=True):
                    self._store[self._keys[k]] = computed
            outcomes = [self._store[self._keys[k]].astype(np.float32) for k in chosen.tolist()]
        return _laid_out(outcomes, batch, self._null)

    def save(self) -> None:
        """Write what the cache does not have on disk yet; no-op without a cache."""
        if self._store is not None:
            self._store.flush()

    def _predict(self, chosen: np.ndarray) -> list[np.ndarray]:
        """Return the probabilities of each window's outcomes, float32 [2, outcomes] each.

        The outcomes are the window's context tokens and, with the null option, null as the last.
        """
        assert self._windows is not None, "attend comes first"
        batch = assemble(self._windows, chosen)
        with torch.inference_mode():
            logits = torch.stack(self._reader.logits(batch)).cpu()
            normalised = normalised_positions(batch, self._null)
            probabilities = log_probabilities(logits, normalised).exp().numpy()
        outcomes = []
        bounds = zip(batch.context_start.tolist(), batch.context_stop.tolist(), strict=True)
        for row, (start, stop) in enumerate(bounds):
            at = list(range(start, stop))
            if self._null and batch.classifier is not None:
                at.append(int(batch.classifier[row]))
            outcomes.append(probabilities[:, row, at])
        return outcomes

    def _load(self) -> None:
        """Load the network. Raises CheckpointError if it can't be, or takes too few tokens."""
        self._reader.load()
        self._is_loaded = True
        self._refuse_too_long()

    def _refuse_too_long(self) -> None:
        """Raise CheckpointError if the longest window has more tokens than the teacher takes."""
        tokens = self._reader.tokenizer().max_length
        most = min(self._reader.positions() or tokens, tokens)
        if most < self._longest:
            raise CheckpointError(
                f"the teacher {self._checkpoint} takes {most} tokens, fewer than "
                f"--max_length={self._max_length} makes of a window in its format: {self._longest}"
            )

    def _refuse_misaligned(self, texts: list[str], passages: Passages, own: Passages) -> None:
        """Raise CheckpointError if a passage's tokens are not at the student's characters."""
        k = misaligned(passages, own)
        if k is not None:
            raise CheckpointError(
                f"the teacher {self._checkpoint} has a tokenizer whose tokens do not match the "
                f"base's one to one: it cuts {texts[k][:80]!r} into others"
            )


def misaligned(passages: Passages, others: Passages) -> int | None:
    """Return the first passage whose tokens differ in number or offsets; None if none does."""
    lengths = np.flatnonzero(passages.lengths != others.lengths)
    if len(lengths):
        return int(lengths[0])
    differ = (passages.char_start != others.char_start) | (passages.char_end != others.char_end)
    tokens = np.flatnonzero(differ)
    return int(np.searchsorted(passages.bounds, tokens[0], "right")) - 1 if len(tokens) else None


def _laid_out(outcomes: list[np.ndarray], batch: Batch, null: bool) -> torch.Tensor:
    """Return the probabilities of outcomes at the positions of a batch, float32 [2, B, L].

    They are divided by their sum, which rounding to float16 moves away from 1.
    """
    laid_out = np.zeros((2, *batch.input_ids.shape), np.float32)
    starts, stops = batch.context_start.tolist(), batch.context_stop.tolist()
    for row, window in enumerate(outcomes):
        start, stop = starts[row], stops[row]
        window = window / window.sum(1, keepdims=True)
        laid_out[:, row, start:stop] = window[:, : stop - start]
        if null and batch.classifier is not None:
            laid_out[:, row, int(batch.classifier[row])] = window[:, -1]
    return torch.from_numpy(laid_out)


def load_teacher(options: argparse.Namespace, tokenizer: Tokenizer) -> Teacher | None:
    """Return the teacher that the options name, None without one. Raises as `Teacher` does."""
    if not options.teacher:
        return None
    with option("teacher", options.teacher):
        return Teacher(
            options.teacher, tokenizer, options.max_length, options.null, options.teacher_cache
        )


def log_probabilities(logits: torch.Tensor, normalised: torch.Tensor) -> torch.Tensor:
    """Return the log-softmax over the positions in `normalised`, [..., B, L]; -inf elsewhere.

    logits float [..., B, L], normalised bool [B, L].
    """
    return torch.log_softmax(torch.where(normalised, logits, -torch.inf), -1)


def divergence(
    logits: torch.Tensor, probabilities: torch.Tensor, normalised: torch.Tensor
) -> torch.Tensor:
    """Return the divergence KL(teacher || student) of each window in nats, [..., B].

    logits         float [..., B, L], the student's
    probabilities  float [..., B, L], the teacher's; 0 outside of `normalised`
    normalised     bool [B, L], the positions of both softmaxes
    """
    # Outside the softmax log p is -inf, and its product with 0 would be nan.
    student = torch.where(normalised, log_probabilities(logits, normalised), 0.0)
    return (torch.xlogy(probabilities, probabilities) - probabilities * student).sum(-1)
