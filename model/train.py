"""Fine-tune a span predictor with the objective that the audit measures.

    python -m model.train --train a.parquet,b.parquet --output DIR

One loop over token-budget batches of context windows (the same windows, golds and losses as the
pipeline's), AdamW with warm-up and linear decay, an average of the weights, and a state file from
which a killed training resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.audit.metrics import grade
from model.checkpoint import CheckpointError, locate, refuse_unsafe
from model.command import argument, option, run_command
from model.reading.batching import Batch, assemble
from model.reading.prediction import Decoding, predict
from model.reading.reader import bfloat16_is_faster, position_limit, takes_types
from model.reading.spans import merge_windows
from model.reading.tokenizer import Tokenizer
from model.settings import SettingError, number, whole
from model.training.data import (
    NULL,
    Examples,
    best_texts,
    make_examples,
    plan_epoch,
    read_rows,
    refuse_known,
    with_joined_passages,
    with_unanswerables,
)
from model.training.distillation import Teacher, divergence, load_teacher
from model.training.joint import OBJECTIVES, golds_without_joint
from model.training.loss import normalised_positions, passage_loss, targets_of, window_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("spanmill.train")


class TrainingReader:
    """The network being trained as a `Reader`, so that evaluation uses the pipeline's `predict`."""

    def __init__(self, network: torch.nn.Module, tokenizer: Tokenizer):
        self.network = network
        self._tokenizer = tokenizer

    def load(self) -> None:
        """Do nothing: the network is already loaded."""

    def tokenizer(self) -> Tokenizer:
        """Return the base's tokenizer."""
        return self._tokenizer

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits, float32 [B, L] each, on the network's device."""
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
    examples = make_examples(
        rows, reader.tokenizer(), options.max_length, options.overlap, options.max_question
    )
    windows = examples.windows
    was_training = reader.network.training
    reader.network.eval()
    decoding = Decoding(n_best=1, max_answer_length=options.max_answer_length)
    prediction = predict(reader, windows, decoding, 4096)
    reader.network.train(was_training)
    spans = merge_windows(
        prediction.spans, windows.pair, windows.index, len(rows), n_best=1, temperature=1.0
    )
    texts = best_texts(spans, windows, [row["context"] for row in rows])
    golds = [row["answers"]["text"] for row in rows]
    scores = [grade(text, gold) for text, gold in zip(texts, golds, strict=True)]
    em, mean_f1 = 100 * np.mean(scores, axis=0)
    return {"em": round(float(em), 2), "f1": round(float(mean_f1), 2)}


@dataclass(slots=True)
class Training:
    """A training in progress: the network with what changes it, and how far it has come.

    base       folder of the checkpoint that the training started from
    network    the network being trained, float32
    average    exponential moving average of its weights, which is what gets saved and evaluated
    eval_rows  rows to evaluate on; empty for no evaluation
    step       batches taken, those before a resumption included
    seconds    time spent training, evaluations excluded
    result     the last evaluation (see `evaluate`); empty before the first
    """

    options: argparse.Namespace
    base: str
    tokenizer: Tokenizer
    teacher: Teacher | None
    network: PreTrainedModel
    average: torch.optim.swa_utils.AveragedModel
    optimizer: torch.optim.Optimizer
    examples: Examples
    eval_rows: list[dict]
    step: int = 0
    seconds: float = 0.0
    result: dict[str, float] = field(default_factory=dict)

    def resume(self) -> None:
        """Load the state of an earlier run from the output folder; no-op if there is none.

        Raises SettingError for a state that can't be loaded into this network.
        """
        path = self._state_file()
        if path.exists():
            try:
                state = torch.load(path, weights_only=True)
                self.network.load_state_dict(state["network"])
                self.average.load_state_dict(state["average"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.seconds = state["step"], state["seconds"]
            except Exception as error:
                short = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                raise SettingError(
                    f"output={self.options.output}: its state.pt is damaged, or of another network ({short})"
                ) from error
            log.info("resuming from step %d, after %.1f minutes", self.step, self.seconds / 60)

    def save_state(self) -> None:
        """Write the state to resume from; an interrupted write keeps the previous state."""
        parts = {"network": self.network, "average": self.average, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        temporary = self._state_file().with_suffix(".tmp")
        torch.save({**state, "step": self.step, "seconds": self.seconds}, temporary)
        os.replace(temporary, self._state_file())

    def _state_file(self) -> Path:
        return Path(self.options.output) / "state.pt"

    def evaluate(self) -> None:
        """Set `result` to the scores of the averaged weights on `eval_rows`."""
        reader = TrainingReader(self.average.module, self.tokenizer)
        self.result = evaluate(reader, self.eval_rows, self.options)

    def loss(
        self, chosen: np.ndarray, autocast: AbstractContextManager[Any]
    ) -> torch.Tensor | None:
        """Return the mean loss (scalar, nats) of windows `chosen` (int64 [B]); None without any.

        Under shared normalisation a batch may hold no gold and no null target; a teacher still
        gives it a loss.
        """
        options = self.options
        batch = assemble(self.examples.windows, chosen)
        targets = targets_of(self.examples, chosen, batch, options.null)
        with autocast:
            start_logits, end_logits = TrainingReader(self.network, self.tokenizer).logits(batch)
        # The losses group windows with numpy, and are small: compute them on the host, in float32.
        start_logits, end_logits = start_logits.cpu(), end_logits.cpu()
        if options.shared_normalisation:
            group = torch.from_numpy(self.examples.group[chosen])
            losses = passage_loss(start_logits, end_logits, batch, targets, group, options)
        else:
            losses = window_loss(start_logits, end_logits, batch, targets, options)
        if not len(losses) and not self.teacher:
            return None
        loss = losses.sum() / max(1, len(losses))
        # Interpolate between the loss of the golds and the divergence from the teacher.
        if self.teacher:
            normalised = normalised_positions(batch, options.null)
            logits = torch.stack([start_logits, end_logits])
            probabilities = self.teacher.probabilities(chosen, batch)
            apart = divergence(logits, probabilities, normalised).sum(0)
            loss = torch.lerp(loss, apart.mean(), options.teacher_share)
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


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train for `max_minutes` or `epochs`, whichever ends first; save the averaged weights.

    Resumes from `state.pt` in the output folder if an earlier run left one. Returns the last
    evaluation, {} without one. Raises SettingError for options that can't be met, before anything
    is written.
    """
    torch.manual_seed(options.seed)
    training = _prepare(options)
    with option("output", options.output):
        Path(options.output).mkdir(parents=True, exist_ok=True)
        (Path(options.output) / "state.tmp").touch()  # refused now rather than after minutes
    training.resume()
    try:
        _take_steps(training)
    finally:
        if training.teacher:
            training.teacher.save()
    training.save_state()
    if training.eval_rows:
        training.evaluate()
        log.info("final evaluation of the averaged weights %s", training.result)
    _save_checkpoint(training)
    return training.result


def _prepare(options: argparse.Namespace) -> Training:
    """Load the base and the teacher, read the rows, and return a training that has not begun."""
    base, tokenizer, network = _load_base(options)
    teacher = load_teacher(options, tokenizer)
    _make_trainable(network, options.dropout)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.average)
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
    examples = _read_examples(options, tokenizer)
    if teacher:
        with option("teacher", options.teacher):
            teacher.attend(examples, _usable(examples, options), options.max_question)
    eval_rows = (
        read_rows(options.eval, given_as="eval")[:: options.eval_every_nth] if options.eval else []
    )
    if options.eval and not any(row["answers"]["text"] for row in eval_rows):
        raise SettingError(f"eval={options.eval}: no row that is evaluated on has an answer")
    log.info("%d rows to evaluate on", len(eval_rows))
    return Training(
        options, base, tokenizer, teacher, network, average, optimizer, examples, eval_rows
    )


def _load_base(options: argparse.Namespace) -> tuple[str, Tokenizer, PreTrainedModel]:
    """Load the checkpoint to start from; return its folder, tokenizer and network.

    Raises SettingError for one that can't be trained with these options.
    """
    from transformers import AutoModelForQuestionAnswering

    with option("base", options.base or "bundled"):
        folder = locate(options.base or "bundled").folder()
        refuse_unsafe(folder)
        tokenizer = Tokenizer(folder)
        try:
            network = AutoModelForQuestionAnswering.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True
            )
        except Exception as error:
            raise CheckpointError(f"its network can't be loaded: {error}") from error
        rows = int(network.get_input_embeddings().num_embeddings)
        if tokenizer.vocabulary_size > rows:
            raise CheckpointError(
                f"its tokenizer has {tokenizer.vocabulary_size} tokens, but its network embeds {rows}"
            )
    most = min(tokenizer.max_length, position_limit(network) or tokenizer.max_length)
    if options.max_length > most:
        raise SettingError(
            f"max_length={options.max_length}: the network takes at most {most} tokens"
        )
    if options.null and tokenizer.format.classifier is None:
        raise SettingError(
            "null: the tokenizer puts no classifier token into a pair, train with --no-null"
        )
    return str(folder), tokenizer, network


def _make_trainable(network: PreTrainedModel, dropout: float) -> None:
    """Set every dropout of a network, and move it to the GPU if there is one, in training mode."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    # Fused attention takes its dropout from the config, not from a module.
    network.config.attention_probs_dropout_prob = dropout
    network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).train()


def _read_examples(options: argparse.Namespace, tokenizer: Tokenizer) -> Examples:
    """Read the training rows, add the made ones, and cut all into windows.

    Raises SettingError for rows that can't be trained on.
    """
    rows = read_rows(options.train, options.mix, options.seed)
    if options.keep_out:
        kept_out = refuse_known(rows, options.keep_out)
        log.info("none of %d passages of %s is among the training rows", kept_out, options.keep_out)
    rows = with_unanswerables(
        rows, options.unanswerable_share if options.null else 0.0, options.seed
    )
    rows = with_joined_passages(rows, options.joined_share, options.joined_passages, options.seed)
    with option("overlap", options.overlap):
        examples = make_examples(
            rows, tokenizer, options.max_length, options.overlap, options.max_question
        )
    if not len(_usable(examples, options)):
        raise SettingError(f"train={options.train}: no window has a target to learn from")
    log.info("%d rows, %d windows to train on", len(rows), len(examples.windows))
    if options.objective in OBJECTIVES:
        without, golds = golds_without_joint(examples, options.max_answer_length)
        log.info(
            "%d of %d golds are no span that the decoder may choose (--max_answer_length=%d): "
            "trained with the categorical loss alone",
            *(without, golds, options.max_answer_length),
        )
    return examples


def _take_steps(training: Training) -> None:
    """Train until the epochs or the minutes are used up; log, save and evaluate in between."""
    options, examples = training.options, training.examples
    first_epoch = plan_epoch(
        examples,
        _usable(examples, options),
        options.batch_tokens,
        np.random.default_rng(options.seed),
    )
    planned = max(1, int(len(first_epoch) * options.epochs))
    autocast = _autocast(training.network.device)
    losses: list[float] = []
    windows_seen = 0
    clock = last_log = last_save = last_eval = time.monotonic()
    for chosen in _batches(examples, options, training.step):
        now = time.monotonic()
        training.seconds, clock = training.seconds + now - clock, now

        # The share of the training that is done decides when it ends, and the linear decay of the
        # rate.
        minutes = training.seconds / 60 / options.max_minutes if options.max_minutes else 0.0
        done = max(training.step / planned, minutes)
        if done >= 1:
            break
        rate = options.learning_rate * min(1.0, (training.step + 1) / options.warmup) * (1 - done)
        loss = training.loss(chosen, autocast)
        training.step += 1
        if loss is None:
            continue
        training.update(loss, rate)
        losses.append(loss.item())
        windows_seen += len(chosen)

        if now - last_log > options.log_seconds:
            speed = windows_seen / (now - last_log)
            mean = float(np.mean(losses))
            log.info(
                "%4.1f %% step %d loss %.4f lr %.2e %.1f windows/s",
                100 * done,
                training.step,
                mean,
                rate,
                speed,
            )
            losses, windows_seen, last_log = [], 0, now
        if now - last_save > options.save_minutes * 60:
            training.save_state()
            last_save = now
        if training.eval_rows and now - last_eval > options.eval_minutes * 60:
            training.evaluate()
            log.info("step %d evaluation %s", training.step, training.result)
            # An evaluation is not time spent training: restart the clock and the measure of speed.
            last_eval = clock = last_log = time.monotonic()


def _batches(examples: Examples, options: argparse.Namespace, skip: int) -> Iterator[np.ndarray]:
    """Yield the batches of endless epochs, from batch number `skip` on, as int64 [B] windows.

    The sequence depends on the seed only, so that a resumed training takes the batches it would
    have taken.
    """
    epoch = 0
    while True:
        batches = plan_epoch(
            examples,
            _usable(examples, options),
            options.batch_tokens,
            np.random.default_rng([options.seed, epoch]),
        )
        yield from batches[skip:]
        skip = max(0, skip - len(batches))
        epoch += 1


def _usable(examples: Examples, options: argparse.Namespace) -> np.ndarray:
    """Return the windows to train on, int64: those with a target; all with shared normalisation.

    There a window without a target still enters the normaliser of its group.
    """
    if options.shared_normalisation:
        return np.arange(len(examples.windows))
    return np.flatnonzero(examples.start >= (NULL if options.null else 0))


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a reusable context that computes in bfloat16 where that is faster."""
    if bfloat16_is_faster(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _save_checkpoint(training: Training) -> None:
    """Write the averaged weights in float16, tokenizer, checkpoint settings and training.json."""
    from transformers import AutoTokenizer

    options, output = training.options, Path(training.options.output)
    averaged: Any = training.average.module
    half = averaged.to(torch.float16)
    objective = options.objective + (
        ", shared normalisation" if options.shared_normalisation else ""
    )
    null = {"null": options.null, "null_trained": options.null}
    half.config.spanmill = {
        **null,
        "objective": objective,
        "temperature": 1.0,
        "null_threshold": 0.0,
        "link": options.link,
    }
    half.save_pretrained(output)
    AutoTokenizer.from_pretrained(training.base).save_pretrained(output)
    report = {"options": vars(options), "evaluation": training.result}
    (output / "training.json").write_text(json.dumps(report, indent=2))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; help gives defaults in parentheses."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--train", required=True, help="comma-separated Parquet files in the input layout"
    )
    data.add_argument("--eval", default="", help="Parquet files to evaluate on")
    data.add_argument(
        "--keep_out",
        default="",
        help="Parquet files whose passages must not be in training: refused if one is",
    )
    data.add_argument(
        "--eval_every_nth",
        type=argument(whole(1, 10**9)),
        default=1,
        help="evaluate on every nth row only (1)",
    )
    data.add_argument(
        "--output", required=True, help="folder of the checkpoint, and of the state to resume from"
    )
    data.add_argument(
        "--base", default="", help="checkpoint folder to start from (the bundled one)"
    )
    data.add_argument(
        "--mix",
        type=_mix,
        default={},
        metavar="PATTERN=TIMES,...",
        help="how often rows are taken by their `source`, e.g. 'squad*=2,qamr*=0.3' (each once)",
    )
    data.add_argument(
        "--unanswerable_share",
        type=argument(number(0, 100)),
        default=0.2,
        help="made unanswerable rows per row (0.2)",
    )
    data.add_argument(
        "--joined_share",
        type=argument(number(0, 1)),
        default=0.0,
        help="rows asked of a long passage, joined of several (0)",
    )
    data.add_argument(
        "--joined_passages",
        type=argument(whole(1, 10**4)),
        default=8,
        help="passages joined at most (8)",
    )
    loss = parser.add_argument_group("objective")
    loss.add_argument(
        "--objective",
        choices=["categorical", "tokenwise", *OBJECTIVES],
        default="categorical",
        help="softmax over tokens, labels of tokens, softmax over spans, both (categorical)",
    )
    loss.add_argument(
        "--max_answer_length",
        type=argument(whole(1, 10**4)),
        default=30,
        help="tokens of the longest span that joint and compound count (30)",
    )
    loss.add_argument("--link", choices=["softmax", "sigmoid"], default="softmax")
    loss.add_argument(
        "--null",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train the null option (yes)",
    )
    loss.add_argument(
        "--shared_normalisation",
        action="store_true",
        help="one softmax over the windows of a question",
    )
    loss.add_argument(
        "--teacher", default="", help="a checkpoint to learn from beside the golds (none)"
    )
    loss.add_argument(
        "--teacher_cache",
        default="",
        metavar="FOLDER",
        help="where the teacher's probabilities are stored, for later epochs and trainings (none)",
    )
    loss.add_argument(
        "--teacher_share",
        type=argument(number(1e-6, 1)),
        default=0.5,
        help="of the loss: divergence from the teacher (0.5)",
    )
    windows = parser.add_argument_group("windows")
    windows.add_argument("--max_length", type=argument(whole(8, 10**6)), default=384)
    windows.add_argument("--overlap", type=argument(whole(0, 10**6)), default=128)
    windows.add_argument("--max_question", type=argument(whole(1, 10**6)), default=64)
    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--learning_rate", type=argument(number(1e-12, 1e3)), default=1.5e-4)
    optimisation.add_argument(
        "--batch_tokens",
        type=argument(whole(1, 10**8)),
        default=4096,
        help="padded tokens per batch (4096)",
    )
    optimisation.add_argument("--epochs", type=argument(number(1e-6, 1e6)), default=2.0)
    optimisation.add_argument(
        "--max_minutes",
        type=argument(number(0, 1e6)),
        default=0.0,
        help="stop, schedule fitted to it (0: no limit)",
    )
    optimisation.add_argument("--warmup", type=argument(whole(1, 10**9)), default=200, help="steps")
    optimisation.add_argument("--weight_decay", type=argument(number(0, 1e3)), default=0.01)
    optimisation.add_argument(
        "--clip",
        type=argument(number(1e-12, 1e12)),
        default=1.0,
        help="largest gradient norm (1.0)",
    )
    optimisation.add_argument("--dropout", type=argument(number(0, 0.99)), default=0.0)
    optimisation.add_argument(
        "--average",
        type=argument(number(0, 1 - 1e-9)),
        default=0.999,
        help="decay of the averaged weights (0.999)",
    )
    optimisation.add_argument("--seed", type=argument(whole(0, 2**32 - 1)), default=0)
    running = parser.add_argument_group("running")
    running.add_argument("--log_seconds", type=argument(number(0, 1e9)), default=30)
    running.add_argument("--save_minutes", type=argument(number(0, 1e9)), default=10)
    running.add_argument("--eval_minutes", type=argument(number(0, 1e9)), default=30)
    return parser


def _mix(value: str) -> dict[str, float]:
    """Parse `pattern=times,...` into a mapping. Raises ArgumentTypeError."""
    try:
        return {
            name: argument(number(0, 1e6))(times)
            for name, times in (part.rsplit("=", 1) for part in value.split(","))
        }
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not PATTERN=TIMES,...") from None


def main(arguments: list[str] | None = None) -> int:
    """Train as the command line says and print the last evaluation as JSON; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.shared_normalisation and options.objective == "tokenwise":
        parser.error("--shared_normalisation does not go with --objective tokenwise")
    if options.teacher_cache and not options.teacher:
        parser.error("--teacher_cache goes with --teacher")
    if options.objective in OBJECTIVES and options.link == "sigmoid":
        parser.error("--link sigmoid goes with --objective tokenwise")
    if options.objective in OBJECTIVES and options.overlap < options.max_answer_length - 1:
        parser.error(
            f"--overlap={options.overlap}: with --objective {options.objective} it must be at "
            f"least --max_answer_length - 1 = {options.max_answer_length - 1}"
        )
    if options.teacher and options.objective == "tokenwise":
        parser.error(
            "--teacher does not go with --objective tokenwise: it teaches distributions over tokens"
        )
    return run_command(lambda: json.dumps(train(options)))


if __name__ == "__main__":
    sys.exit(main())
