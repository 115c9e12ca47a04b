"""Draw the figures of the manual from runs of the bundled reader on the bundled sample.

python run_pipeline.py annotate --audit --input bundled --output out/figures
python docs/figures/draw.py out/figures docs/figures
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import torch
from matplotlib import pyplot

from model import SpanReader
from model.reading.batching import assemble
from model.reading.pairs import cut_pairs
from pipeline.bundled.build import load_sources

EXAMPLE = "kitchen-rye-loaf-q1"
LONG = "long-river-down-the-isken-q5"
START, END, OTHER = "#1f77b4", "#d95f02", "#7f7f7f"


def probabilities(reader: SpanReader, question: str, context: str) -> tuple[list[str], np.ndarray]:
    """Return the tokens of a passage of one window, and both softmaxes over them, [2, tokens]."""
    pairs = cut_pairs([question], [context], reader.reader.tokenizer(), reader.limits)
    batch = assemble(pairs.windows, np.array([0]))
    with torch.inference_mode():
        logits = torch.stack(reader.reader.logits(batch))[:, 0][:, batch.in_context[0]]
    passages = pairs.windows.passages
    bounds = zip(passages.char_start.tolist(), passages.char_end.tolist(), strict=True)
    return [context[start:end] for start, end in bounds], torch.softmax(logits, 1).numpy()


def draw_example(reader: SpanReader, row: dict, folder: Path) -> None:
    """Draw start and end probabilities of the tokens around the answer."""
    tokens, shares = probabilities(reader, row["question"], row["context"])
    # Only the tokens around the most probable one fit on the page.
    middle = int(shares.max(0).argmax())
    shown = slice(max(0, middle - 12), middle + 14)
    figure, axes = pyplot.subplots(figsize=(9, 3.2))
    position = np.arange(len(tokens[shown]))
    axes.bar(position - 0.2, shares[0, shown], 0.4, color=START, label="start network")
    axes.bar(position + 0.2, shares[1, shown], 0.4, color=END, label="end network")
    axes.set_xticks(position, tokens[shown], rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="share of the softmax", title=row["question"])
    axes.legend(frameon=False)
    save(figure, folder / "example.svg")


def draw_losses(rows: list[dict], folder: Path) -> None:
    """Draw the distribution of the loss, and its parts from the start and the end network."""
    start, end = (
        np.array([row[name] for row in rows if row["nll"] is not None])
        for name in ("nll_start", "nll_end")
    )
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    left.hist(start + end, 40, color=OTHER)
    left.set(xlabel="nll, nats", ylabel="examples")
    right.scatter(start, end, 9, color=OTHER, alpha=0.6, linewidths=0)
    right.set(xlabel="nll_start", ylabel="nll_end")
    save(figure, folder / "losses.svg")


def draw_posterior(reader: SpanReader, row: dict, folder: Path) -> None:
    """Draw the candidates of a long passage with their windows."""
    answer = reader.answer(row["question"], row["context"], n_best=8)
    figure, axes = pyplot.subplots(figsize=(9, 3.2))
    names = [f"{each.text[:40]} (window {each.window_index + 1})" for each in answer.n_best]
    axes.barh(names[::-1], [each.probability for each in answer.n_best][::-1], color=START)
    axes.set(
        xlabel=f"share of the passage's posterior, {answer.num_windows} windows",
        title=row["question"],
    )
    save(figure, folder / "posterior.svg")


def draw_reliability(rows: list[dict], folder: Path) -> None:
    """Draw how often answers of a probability are right, in bins of equal counts."""
    shown = [row for row in rows if row["prediction"]]
    probability, right = (
        np.array([row[name] for row in shown]) for name in ("probability", "exact_match")
    )
    bins = np.array_split(np.argsort(probability), 10)
    figure, axes = pyplot.subplots(figsize=(4.2, 4))
    axes.plot([0, 1], [0, 1], color=OTHER, linewidth=1, linestyle="--")
    axes.plot(
        [probability[b].mean() for b in bins], [right[b].mean() for b in bins], "o-", color=START
    )
    axes.set(xlabel="mean probability", ylabel="share of exact matches", xlim=(0, 1), ylim=(0, 1))
    save(figure, folder / "reliability.svg")


def save(figure: pyplot.Figure, path: Path) -> None:
    """Write a figure as SVG without a date, so that the same figure has the same bytes."""
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main(run: str, folder: str) -> None:
    """Draw all figures of an audited run into a folder."""
    # The salt makes the ids inside SVG files the same in every run.
    matplotlib.rcParams.update(
        {"svg.hashsalt": "spanmill", "axes.spines.top": False, "axes.spines.right": False}
    )
    reader = SpanReader.load()
    sample = {row["id"]: row for row in load_sources()}
    audited = [
        row
        for part in sorted(Path(run, "audit", "parts").glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    draw_example(reader, sample[EXAMPLE], Path(folder))
    draw_posterior(reader, sample[LONG], Path(folder))
    draw_losses(audited, Path(folder))
    draw_reliability(audited, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
