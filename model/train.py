"""Fine-tunes a span predictor with the objective that the audit measures: `python -m model.train --train ... --output DIR`.

One loop over token-budget batches of context windows (the same windows, golds and losses as the pipeline's), AdamW with
warm-up and linear decay, an average of the weights, and a state file that a killed run goes on from.
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
from model.training.distillation import Teacher, divergence
from model.training.loss import normalised_positions, passage_loss, targets_of, window_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("spanmill.train")


class TrainingReader:
    """The network being trained, behind the reader's contract, so that evaluation is the pipeline's own prediction."""

    def __init__(self, network: torch.nn.Module, tokenizer: Tokenizer):
        self.network = network
        self._tokenizer = tokenizer

    def load(self) -> None:
        """Nothing to load."""

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention.long()}
        if takes_types(self.network):
            inputs["token_type_ids"] = batch.token_types
        device = next(self.network.parameters()).device
        output = self.network(**{name: tensor.to(device) for name, tensor in inputs.items()})
        return output.start_logits.float(), output.end_logits.float()

    def lanes(self) -> int:
        return 1


def evaluate(reader: TrainingReader, rows: list[dict], options: argparse.Namespace) -> dict[str, float]:
    """EM and F1 in per cent of the best span of each answerable row (the null option is fitted after training)."""
    rows = [row for row in rows if row["answers"]["text"]]
    examples = make_examples(rows, reader.tokenizer(), options.max_length, options.overlap, options.max_question)
    windows = examples.windows
    was_training = reader.network.training
    reader.network.eval()
    prediction = predict(reader, windows, Decoding(n_best=1), 4096)
    reader.network.train(was_training)
    spans = merge_windows(prediction.spans, windows.pair, windows.index, len(rows), n_best=1, temperature=1.0)
    texts = best_texts(spans, windows, [row["context"] for row in rows])
    golds = [row["answers"]["text"] for row in rows]
    scores = [grade(text, gold) for text, gold in zip(texts, golds, strict=True)]
    em, mean_f1 = 100 * np.mean(scores, axis=0)
    return {"em": round(float(em), 2), "f1": round(float(mean_f1), 2)}


def train(options: argparse.Namespace) -> dict[str, float]:
    """Trains until `max_minutes` or `epochs` are up; saves the averaged weights. Returns the last evaluation.

    Raises SettingError for options that can't be met, before anything is written.
    """
    torch.manual_seed(options.seed)
    base, tokenizer, network = _load_base(options)
    teacher = None
    if options.teacher:
        with option("teacher", options.teacher):
            teacher = Teacher(options.teacher, tokenizer, options.max_length, options.null)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = options.dropout
    network.config.attention_probs_dropout_prob = options.dropout
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).train()
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.average)
    )
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=options.learning_rate,
        fused=True,
    )

    rows = read_rows(options.train, options.mix, options.seed)
    if options.keep_out:
        kept_out = refuse_known(rows, options.keep_out)
        log.info("none of %d passages of %s is among the training rows", kept_out, options.keep_out)
    rows = with_unanswerables(rows, options.unanswerable_share if options.null else 0.0, options.seed)
    rows = with_joined_passages(rows, options.joined_share, options.joined_passages, options.seed)
    with option("overlap", options.overlap):
        examples = make_examples(rows, tokenizer, options.max_length, options.overlap, options.max_question)
    if not len(_usable(examples, options)):
        raise SettingError(f"train={options.train}: no window has a target to learn from")
    eval_rows = read_rows(options.eval, given_as="eval")[:: options.eval_every_nth] if options.eval else []
    if options.eval and not any(row["answers"]["text"] for row in eval_rows):
        raise SettingError(f"eval={options.eval}: no row that is evaluated on has an answer")
    log.info("%d rows, %d windows to train on, %d rows to evaluate", len(rows), len(examples.windows), len(eval_rows))

    output = Path(options.output)
    state_file = output / "state.pt"
    step, seconds = 0, 0.0
    with option("output", options.output):
        output.mkdir(parents=True, exist_ok=True)
        state_file.with_suffix(".tmp").touch()  # refused now rather than after minutes
    if state_file.exists():
        try:
            state = torch.load(state_file, weights_only=True)
            network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            step, seconds = state["step"], state["seconds"]
        except Exception as error:
            short = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise SettingError(f"output={output}: its state.pt is damaged, or of another network ({short})") from error
        log.info("going on from step %d, after %.1f minutes", step, seconds / 60)

    per_epoch = len(plan_epoch(examples, _usable(examples, options), options.batch_tokens, np.random.default_rng(options.seed)))
    planned = max(1, int(per_epoch * options.epochs))
    autocast = _autocast(device)
    losses: list[float] = []
    seen, result = 0, {}
    clock = last_log = last_save = last_eval = time.monotonic()
    for chosen in _batches(examples, options, step):
        now = time.monotonic()
        seconds, clock = seconds + now - clock, now
        done = max(step / planned, seconds / 60 / options.max_minutes if options.max_minutes else 0.0)
        if done >= 1:
            break
        rate = options.learning_rate * min(1.0, (step + 1) / options.warmup) * (1 - done)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        batch = assemble(examples.windows, chosen)
        targets = targets_of(examples, chosen, batch, options.null)
        with autocast:
            start_logits, end_logits = TrainingReader(network, tokenizer).logits(batch)
        start_logits, end_logits = start_logits.cpu(), end_logits.cpu()
        if options.shared_normalisation:
            group = torch.from_numpy(examples.group[chosen])
            per_example = passage_loss(start_logits, end_logits, batch, targets, group, options.null)
        else:
            per_example = window_loss(start_logits, end_logits, batch, targets, options)
        if not len(per_example) and not teacher:
            step += 1
            continue
        loss = per_example.sum() / max(1, len(per_example))
        if teacher:
            normalised = normalised_positions(batch, options.null)
            logits = torch.stack([start_logits, end_logits])
            apart = divergence(logits, teacher.probabilities(batch, normalised), normalised).sum(0)
            loss = torch.lerp(loss, apart.mean(), options.teacher_share)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        optimizer.step()
        average.update_parameters(network)
        losses.append(loss.item())
        step, seen = step + 1, seen + len(chosen)
        if now - last_log > options.log_seconds:
            speed = seen / (now - last_log)
            mean = float(np.mean(losses))
            log.info("%4.1f %% step %d loss %.4f lr %.2e %.1f windows/s", 100 * done, step, mean, rate, speed)
            losses, seen, last_log = [], 0, now
        if now - last_save > options.save_minutes * 60:
            _save_state(state_file, network, average, optimizer, step, seconds)
            last_save = now
        if eval_rows and now - last_eval > options.eval_minutes * 60:
            result = evaluate(TrainingReader(average.module, tokenizer), eval_rows, options)
            log.info("step %d evaluation %s", step, result)
            last_eval = clock = last_log = time.monotonic()
    _save_state(state_file, network, average, optimizer, step, seconds)
    if eval_rows:
        result = evaluate(TrainingReader(average.module, tokenizer), eval_rows, options)
        log.info("final evaluation of the averaged weights %s", result)
    _save_checkpoint(output, average.module, base, options, result)
    return result


def _load_base(options: argparse.Namespace) -> tuple[str, Tokenizer, PreTrainedModel]:
    """Folder, tokenizer and network of the checkpoint to start from. Raises SettingError for one that can't be trained."""
    from transformers import AutoModelForQuestionAnswering

    with option("base", options.base or "bundled"):
        folder = locate(options.base or "bundled").folder()
        refuse_unsafe(folder)
        tokenizer = Tokenizer(folder)
        try:
            network = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        except Exception as error:
            raise CheckpointError(f"its network can't be loaded: {error}") from error
        rows = int(network.get_input_embeddings().num_embeddings)
        if tokenizer.vocabulary_size > rows:
            raise CheckpointError(f"its tokenizer has {tokenizer.vocabulary_size} tokens, but its network embeds {rows}")
    most = min(tokenizer.max_length, position_limit(network) or tokenizer.max_length)
    if options.max_length > most:
        raise SettingError(f"max_length={options.max_length}: the network takes at most {most} tokens")
    if options.null and tokenizer.format.classifier is None:
        raise SettingError("null: the tokenizer puts no classifier token into a pair, train with --no-null")
    return str(folder), tokenizer, network


def _batches(examples: Examples, options: argparse.Namespace, skip: int) -> Iterator[np.ndarray]:
    """The batches of all epochs, from batch number `skip` on: the same for the same seed, however often it resumed."""
    epoch = 0
    while True:
        batches = plan_epoch(
            examples, _usable(examples, options), options.batch_tokens, np.random.default_rng([options.seed, epoch])
        )
        yield from batches[skip:]
        skip = max(0, skip - len(batches))
        epoch += 1


def _usable(examples: Examples, options: argparse.Namespace) -> np.ndarray:
    """The windows to train on: all under shared normalisation, where they enter the normaliser; else those with a target."""
    if options.shared_normalisation:
        return np.arange(len(examples.windows))
    return np.flatnonzero(examples.start >= (NULL if options.null else 0))


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    if bfloat16_is_faster(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _save_state(
    path: Path,
    network: torch.nn.Module,
    average: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    temporary = path.with_suffix(".tmp")
    state = {"network": network.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "seconds": seconds}, temporary)
    os.replace(temporary, path)


def _save_checkpoint(
    output: Path, network: PreTrainedModel, base: str, options: argparse.Namespace, result: dict[str, float]
) -> None:
    from transformers import AutoTokenizer

    half = network.to(torch.float16)
    objective = options.objective + (", shared normalisation" if options.shared_normalisation else "")
    null = {"null": options.null, "null_trained": options.null}
    half.config.spanmill = {**null, "objective": objective, "temperature": 1.0, "null_threshold": 0.0, "link": options.link}
    half.save_pretrained(output)
    AutoTokenizer.from_pretrained(base).save_pretrained(output)
    (output / "training.json").write_text(json.dumps({"options": vars(options), "evaluation": result}, indent=2))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.train", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument("--train", required=True, help="comma-separated Parquet files in the input layout")
    data.add_argument("--eval", default="", help="Parquet files to evaluate on")
    data.add_argument("--keep_out", default="", help="Parquet files whose passages must not be in training: refused if one is")
    data.add_argument(
        "--eval_every_nth",
        type=argument(whole(1, 10**9)),
        default=1,
        help="evaluate on every nth row only (1)",
    )
    data.add_argument("--output", required=True, help="folder of the checkpoint, and of the state to resume from")
    data.add_argument("--base", default="", help="checkpoint folder to start from (the bundled one)")
    data.add_argument(
        "--mix",
        type=_mix,
        default={},
        metavar="PATTERN=TIMES,...",
        help="how often rows are taken by their `source`, e.g. 'squad*=2,qamr*=0.3' (each once)",
    )
    data.add_argument(
        "--unanswerable_share", type=argument(number(0, 100)), default=0.2, help="made unanswerable rows per row (0.2)"
    )
    data.add_argument(
        "--joined_share", type=argument(number(0, 1)), default=0.0, help="rows asked of a long passage, joined of several (0)"
    )
    data.add_argument(
        "--joined_passages",
        type=argument(whole(1, 10**4)),
        default=8,
        help="passages joined at most (8)",
    )
    loss = parser.add_argument_group("objective")
    loss.add_argument("--objective", choices=["categorical", "tokenwise"], default="categorical")
    loss.add_argument("--link", choices=["softmax", "sigmoid"], default="softmax")
    loss.add_argument("--null", action=argparse.BooleanOptionalAction, default=True, help="train the null option (yes)")
    loss.add_argument("--shared_normalisation", action="store_true", help="one softmax over the windows of a question")
    loss.add_argument("--teacher", default="", help="a checkpoint to learn from beside the golds (none)")
    loss.add_argument(
        "--teacher_share", type=argument(number(1e-6, 1)), default=0.5, help="of the loss: divergence from the teacher (0.5)"
    )
    windows = parser.add_argument_group("windows")
    windows.add_argument("--max_length", type=argument(whole(8, 10**6)), default=384)
    windows.add_argument("--overlap", type=argument(whole(0, 10**6)), default=128)
    windows.add_argument("--max_question", type=argument(whole(1, 10**6)), default=64)
    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--learning_rate", type=argument(number(1e-12, 1e3)), default=1.5e-4)
    optimisation.add_argument(
        "--batch_tokens", type=argument(whole(1, 10**8)), default=4096, help="padded tokens per batch (4096)"
    )
    optimisation.add_argument("--epochs", type=argument(number(1e-6, 1e6)), default=2.0)
    optimisation.add_argument(
        "--max_minutes", type=argument(number(0, 1e6)), default=0.0, help="stop, schedule fitted to it (0: no limit)"
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
        "--average", type=argument(number(0, 1 - 1e-9)), default=0.999, help="decay of the averaged weights (0.999)"
    )
    optimisation.add_argument("--seed", type=argument(whole(0, 2**32 - 1)), default=0)
    running = parser.add_argument_group("running")
    running.add_argument("--log_seconds", type=argument(number(0, 1e9)), default=30)
    running.add_argument("--save_minutes", type=argument(number(0, 1e9)), default=10)
    running.add_argument("--eval_minutes", type=argument(number(0, 1e9)), default=30)
    return parser


def _mix(value: str) -> dict[str, float]:
    """`pattern=times,...` as a mapping. Raises ArgumentTypeError."""
    try:
        return {name: argument(number(0, 1e6))(times) for name, times in (part.rsplit("=", 1) for part in value.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not PATTERN=TIMES,...") from None


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.shared_normalisation and options.objective == "tokenwise":
        parser.error("--shared_normalisation goes with --objective categorical")
    if options.teacher and options.objective == "tokenwise":
        parser.error("--teacher goes with --objective categorical: it teaches distributions over tokens")
    return run_command(lambda: json.dumps(train(options)))


if __name__ == "__main__":
    sys.exit(main())
