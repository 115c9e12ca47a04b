"""Fine-tunes a span predictor with the objective that the audit measures: `python -m model.train --train ... --output DIR`.

One loop over token-budget batches of context windows (the same windows, golds and losses as the pipeline's), AdamW with
warm-up and linear decay, an average of the weights, and a state file that a killed run goes on from.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from model.batching import Batch, assemble, plan_batches
from model.checkpoint import Bundled
from model.golds import gold_tokens
from model.metrics import exact_match, f1
from model.objective import categorical, log_normaliser, merge_log_masses, tokenwise
from model.prediction import Decoding, predict
from model.reader import takes_types
from model.spans import merge_windows
from model.tokenizer import Tokenizer
from model.windows import Windows, cut_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("spanmill.train")

ABSENT, NULL = -2, -1
"""Targets of a window: the gold stands partly in it (no target), or not at all (null)."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Training windows with their targets, passage tokens of the first gold, int64 [windows], or ABSENT or NULL."""

    windows: Windows
    start: np.ndarray
    end: np.ndarray


def read_rows(files: str) -> list[dict]:
    """The rows of comma-separated Parquet files in the input contract's layout."""
    tables = [pq.read_table(path, columns=["question", "context", "answers"]) for path in files.split(",") if path]
    return pa.concat_tables(tables, promote_options="permissive").to_pylist()


def with_unanswerables(rows: list[dict], share: float, seed: int) -> list[dict]:
    """Adds `share` x len(rows) rows that pair a question with a passage nearby in the data that lacks its answer."""
    chosen = random.Random(seed)
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    place = {context: k for k, context in enumerate(contexts)}
    added: list[dict] = []
    while len(added) < share * len(rows):
        row = chosen.choice(rows)
        other = contexts[(place[row["context"]] + chosen.choice([-3, -2, -1, 1, 2, 3])) % len(contexts)]
        golds = row["answers"]["text"]
        if golds and not any(gold.lower() in other.lower() for gold in golds):
            added.append({"question": row["question"], "context": other, "answers": {"text": [], "answer_start": []}})
    return rows + added


def make_examples(rows: list[dict], tokenizer: Tokenizer, max_length: int, overlap: int, max_question: int) -> Examples:
    """Cuts the rows into windows and finds the first gold of each in them; windows with part of a gold are dropped."""
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    place = {context: k for k, context in enumerate(contexts)}
    passages = tokenizer.passages(contexts)
    questions = tokenizer.questions([row["question"] for row in rows]).cut(max_question)
    passage = np.array([place[row["context"]] for row in rows])
    windows = cut_windows(
        tokenizer.format,
        passages,
        questions,
        passage,
        np.arange(len(rows)),
        max_length=max_length,
        overlap=overlap,
        max_windows=10_000,
    )
    answered = np.array([bool(row["answers"]["text"]) for row in rows])
    begin = np.array([(row["answers"]["answer_start"] or [0])[0] for row in rows])
    stop = begin + np.array([len((row["answers"]["text"] or [""])[0]) for row in rows])
    first, last = np.full(len(rows), NULL, np.int64), np.full(len(rows), NULL, np.int64)
    for row in np.flatnonzero(answered):
        first[row], last[row] = gold_tokens(passages, passage[row], begin[row], stop[row])
    start, end = first[windows.pair], last[windows.pair]
    whole = (start >= windows.start) & (end < windows.stop)
    outside = (end < windows.start) | (start >= windows.stop)
    target = np.where(whole, 0, np.where(outside, NULL, ABSENT))
    return Examples(windows, np.where(target == 0, start, target), np.where(target == 0, end, target))


def window_loss(
    start_logits: torch.Tensor, end_logits: torch.Tensor, batch: Batch, targets: torch.Tensor, options: argparse.Namespace
) -> torch.Tensor:
    """nll_start + nll_end of each window, [B]; targets int64 [2, B], batch positions (the classifier's for null)."""
    context = batch.in_context
    normalised = context
    if options.null and batch.classifier is not None:
        normalised = context.scatter(1, batch.classifier[:, None], True)
    losses = []
    for logits, target in zip((start_logits, end_logits), targets, strict=True):
        if options.objective == "tokenwise":
            losses.append(tokenwise(logits, target, context, options.link, normalised))
        else:
            losses.append(categorical(logits, target, log_normaliser(logits, normalised)))
    return losses[0] + losses[1]


def passage_loss(
    start_logits: torch.Tensor, end_logits: torch.Tensor, batch: Batch, targets: torch.Tensor, pair: torch.Tensor
) -> torch.Tensor:
    """-log of the share of the gold in one softmax over all windows of its passage in the batch, [passages with a gold].

    Shared normalisation (Clark & Gardner 2018, arXiv:1710.10723): windows without the gold only enter the normaliser.
    """
    place = torch.arange(start_logits.shape[1])
    owned = batch.in_context & (2 * place >= batch.owned_low[:, None]) & (2 * place < batch.owned_high[:, None])
    groups, group = torch.unique(pair, return_inverse=True)
    total = start_logits.new_zeros(len(groups))
    count = start_logits.new_zeros(len(groups))
    for logits, target in zip((start_logits, end_logits), targets, strict=True):
        normaliser = merge_log_masses(log_normaliser(logits, owned), group, len(groups))
        holds = target >= 0
        inside = categorical(logits, target.clamp(min=0), normaliser[group])
        holds = holds & owned.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
        total = total.index_add(0, group, torch.where(holds, inside, 0.0))
        count = count.index_add(0, group, holds.float())
    return total[count == 2]


def plan_epoch(examples: Examples, usable: np.ndarray, batch_tokens: int, order: np.random.Generator) -> list[np.ndarray]:
    """Random batches of windows of like length under the token budget: shuffled, sorted within stretches, cut, shuffled."""
    lengths = examples.windows.lengths
    shuffled = order.permutation(usable)
    batches: list[np.ndarray] = []
    for stretch in np.array_split(shuffled, max(1, len(shuffled) // 1500)):
        batches += [stretch[batch] for batch in plan_batches(lengths[stretch], batch_tokens)]
    return [batches[k] for k in order.permutation(len(batches))]


def targets_of(examples: Examples, chosen: np.ndarray, batch: Batch) -> torch.Tensor:
    """Batch positions of the targets, int64 [2, B]; null is the classifier's position, or -1 without one."""
    shift = batch.context_start - batch.passage_start
    null = batch.classifier if batch.classifier is not None else torch.full((len(chosen),), -1)
    both = [torch.from_numpy(side[chosen]) for side in (examples.start, examples.end)]
    return torch.stack([torch.where(side >= 0, side + shift, null) for side in both])


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
    scores = []
    for k, row in enumerate(rows):
        base = windows.passages.bounds[windows.pair_passage[k]]
        begin = windows.passages.char_start[base + spans.start[k, 0]]
        stop = windows.passages.char_end[base + spans.end[k, 0]]
        text = row["context"][begin:stop] if spans.found[k] else ""
        scores.append((exact_match(text, row["answers"]["text"]), f1(text, row["answers"]["text"])))
    em, mean_f1 = 100 * np.mean(scores, axis=0)
    return {"em": round(float(em), 2), "f1": round(float(mean_f1), 2)}


def train(options: argparse.Namespace) -> dict[str, float]:
    """Trains until `max_minutes` or `epochs` are up; saves the averaged weights. Returns the last evaluation."""
    from transformers import AutoModelForQuestionAnswering

    torch.manual_seed(options.seed)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    base = options.base or str(Bundled().folder())
    tokenizer = Tokenizer(base)
    network = AutoModelForQuestionAnswering.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
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
    )

    rows = with_unanswerables(read_rows(options.train), options.unanswerable_share if options.null else 0.0, options.seed)
    examples = make_examples(rows, tokenizer, options.max_length, options.overlap, options.max_question)
    usable = np.flatnonzero(examples.start >= (NULL if options.null else 0))
    eval_rows = read_rows(options.eval)[:: max(1, options.eval_every_nth)] if options.eval else []
    log.info("%d rows, %d windows to train on, %d rows to evaluate", len(rows), len(usable), len(eval_rows))

    state_file = output / "state.pt"
    step, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
        log.info("going on from step %d, after %.1f minutes", step, seconds / 60)

    per_epoch = len(plan_epoch(examples, usable, options.batch_tokens, np.random.default_rng(options.seed)))
    planned = max(1, int(per_epoch * options.epochs))
    autocast = _autocast(device)
    losses: list[float] = []
    seen, result = 0, {}
    clock = last_log = last_save = last_eval = time.monotonic()
    for chosen in _batches(examples, usable, options, step):
        now = time.monotonic()
        seconds, clock = seconds + now - clock, now
        done = max(step / planned, seconds / 60 / options.max_minutes if options.max_minutes else 0.0)
        if done >= 1:
            break
        rate = options.learning_rate * min(1.0, (step + 1) / options.warmup) * (1 - done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = assemble(examples.windows, chosen)
        targets = targets_of(examples, chosen, batch)
        with autocast:
            start_logits, end_logits = TrainingReader(network, tokenizer).logits(batch)
        start_logits, end_logits = start_logits.cpu(), end_logits.cpu()
        if options.shared_normalisation:
            pair = torch.from_numpy(examples.windows.pair[chosen].astype(np.int64))
            per_example = passage_loss(start_logits, end_logits, batch, targets, pair)
        else:
            per_example = window_loss(start_logits, end_logits, batch, targets, options)
        if not len(per_example):
            step += 1
            continue
        loss = per_example.mean()
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


def _batches(examples: Examples, usable: np.ndarray, options: argparse.Namespace, skip: int) -> Iterator[np.ndarray]:
    """The batches of all epochs, from batch number `skip` on: the same for the same seed, however often it resumed."""
    if options.shared_normalisation:
        usable = np.arange(len(examples.windows))
    epoch = 0
    while True:
        order = np.random.default_rng([options.seed, epoch])
        batches = (_plan_passages if options.shared_normalisation else plan_epoch)(
            examples, usable, options.batch_tokens, order
        )
        yield from batches[skip:]
        skip = max(0, skip - len(batches))
        epoch += 1


def _plan_passages(examples: Examples, usable: np.ndarray, batch_tokens: int, order: np.random.Generator) -> list[np.ndarray]:
    """Like `plan_epoch`, but all windows of a pair stay in one batch."""
    lengths, pair = examples.windows.lengths, examples.windows.pair
    pairs, first = np.unique(pair, return_index=True)
    groups = np.split(usable, first[1:])
    longest = np.maximum.reduceat(lengths, first)
    batches = []
    for stretch in np.array_split(order.permutation(len(pairs)), max(1, len(pairs) // 1500)):
        batch: list[int] = []
        for k in stretch[np.argsort(-longest[stretch], kind="stable")]:
            if batch and (len(batch) + len(groups[k])) * lengths[batch].max() > batch_tokens:
                batches.append(np.array(batch))
                batch = []
            batch += list(groups[k])
        batches.append(np.array(batch))
    return [batches[k] for k in order.permutation(len(batches))]


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    if device.type == "cuda" or torch.cpu._is_amx_tile_supported():
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
    half.config.spanmill = {"null": options.null, "temperature": 1.0, "null_threshold": 0.0, "link": options.link}
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
    data.add_argument("--eval_every_nth", type=int, default=1, help="evaluate on every nth row only (1)")
    data.add_argument("--output", required=True, help="folder of the checkpoint, and of the state to resume from")
    data.add_argument("--base", default="", help="checkpoint folder to start from (the bundled one)")
    data.add_argument("--unanswerable_share", type=float, default=0.2, help="made unanswerable rows per row (0.2)")
    loss = parser.add_argument_group("objective")
    loss.add_argument("--objective", choices=["categorical", "tokenwise"], default="categorical")
    loss.add_argument("--link", choices=["softmax", "sigmoid"], default="softmax")
    loss.add_argument("--null", action=argparse.BooleanOptionalAction, default=True, help="train the null option (yes)")
    loss.add_argument("--shared_normalisation", action="store_true", help="one softmax over a passage's windows")
    windows = parser.add_argument_group("windows")
    windows.add_argument("--max_length", type=int, default=384)
    windows.add_argument("--overlap", type=int, default=128)
    windows.add_argument("--max_question", type=int, default=64)
    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--learning_rate", type=float, default=1.5e-4)
    optimisation.add_argument("--batch_tokens", type=int, default=4096, help="padded tokens per batch (4096)")
    optimisation.add_argument("--epochs", type=float, default=2.0)
    optimisation.add_argument("--max_minutes", type=float, default=0.0, help="stop, schedule fitted to it (0: no limit)")
    optimisation.add_argument("--warmup", type=int, default=200, help="steps")
    optimisation.add_argument("--weight_decay", type=float, default=0.01)
    optimisation.add_argument("--clip", type=float, default=1.0, help="largest gradient norm (1.0)")
    optimisation.add_argument("--dropout", type=float, default=0.0)
    optimisation.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights (0.999)")
    optimisation.add_argument("--seed", type=int, default=0)
    running = parser.add_argument_group("running")
    running.add_argument("--log_seconds", type=float, default=30)
    running.add_argument("--save_minutes", type=float, default=10)
    running.add_argument("--eval_minutes", type=float, default=30)
    return parser


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    options = make_parser().parse_args(arguments)
    if options.shared_normalisation and (options.null or options.objective == "tokenwise"):
        raise SystemExit("--shared_normalisation goes with --no-null and --objective categorical")
    print(json.dumps(train(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
