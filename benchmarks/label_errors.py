"""Compare the ranking of suspected label errors with cleanlab's and with rankings by plain losses.

    python -m benchmarks.corrupt_golds make --input gold.parquet --kind moved --one_gold \\
        --output corrupted.parquet
    python run_pipeline.py audit --input corrupted.parquet --output OUT
    python -m benchmarks.label_errors tokens --input corrupted.parquet --output tokens.npz
    python -m benchmarks.label_errors rank --audit OUT --tokens tokens.npz

`rank` needs cleanlab (`pip install cleanlab`, which is not a dependency of Spanmill). It prints a
Markdown table with the precision of each ranking at 20 and at N, the number of corrupted golds, and
its average precision. Golds that were wrong before count as false alarms in every ranking.

cleanlab's span classification (`cleanlab.experimental.span_classification`, whose scores are those
of Wang & Mueller 2022, arXiv:2210.03920) takes one probability for every token: that it belongs to
the class. It is made in two ways:

    inside  the token is in the answer, as cleanlab means it: a start at or before it, and no end
            before it
    ends    the token is the start, or the end; the tokens of both networks form one sentence

Each is ranked by both of cleanlab's scores of a sentence, and by `find_label_issues`: sentences
with an issue first, in the order of their worst token, then the others by their score.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq


def write_tokens(options: argparse.Namespace) -> None:
    """Write start and end probabilities of the tokens of all rows with golds.

    The arrays are `tokens R`, float32 [2, tokens of row R], and `gold R`, its first and last token.
    """
    from benchmarks.token_probabilities import token_probabilities
    from model.checkpoint import Bundled
    from model.reading.reader import CheckpointReader
    from model.reading.windows import WindowLimits
    from transforms.make_windows import make_windows
    from transforms.records import Chunk, ChunkSpec, InputColumns

    reader = CheckpointReader(Bundled())
    limits, columns = WindowLimits(384, 128, 64, 2000), InputColumns(answers="answers")
    table = pq.read_table(options.input)
    held: dict[str, Any] = {}
    # Chunks of 200 rows, so that the logits of all tokens fit in memory.
    for begin in range(0, table.num_rows, 200):
        rows = table.slice(begin, 200)
        spec = ChunkSpec(
            str(options.input), "input", 0, begin, begin, rows.num_rows, "part.parquet"
        )
        windowed = make_windows(Chunk(spec, rows, None), reader.tokenizer(), limits, columns)
        tokens, shares = token_probabilities(reader, windowed.windows, batch_tokens=4096)
        assert windowed.golds is not None
        for row, pair in enumerate(windowed.row_pair.tolist()):
            golds = windowed.golds.of_row[row]
            if len(golds):
                gold = windowed.golds.first[golds[0]], windowed.golds.last[golds[0]]
                held[f"gold {begin + row}"] = np.array(gold)
                inside_pair = slice(tokens.bounds[pair], tokens.bounds[pair + 1])
                held[f"tokens {begin + row}"] = shares[:, inside_pair]
    np.savez(options.output, **held)


def inside(tokens: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, int [tokens], and probabilities, float [tokens], of the way `inside`."""
    starts, ends = np.cumsum(tokens, 1)
    index = np.arange(tokens.shape[1])
    # The sum over starts so far, less the ends that came before the token.
    probabilities = np.clip(starts - np.concatenate([[0.0], ends[:-1]]), 0, 1)
    return ((index >= gold[0]) & (index <= gold[1])).astype(int), probabilities


def ends(tokens: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, int [2 tokens], and probabilities, float [2 tokens], of the way `ends`."""
    labels = np.zeros(tokens.shape, int)
    labels[[0, 1], gold] = 1
    return labels.ravel(), tokens.ravel()


def cleanlab_rankings(
    name: str, labels: list[np.ndarray], probabilities: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return cleanlab's rankings of sentences, the most suspected highest.

    labels, probabilities  of the tokens of each sentence
    """
    from cleanlab.experimental.span_classification import (
        find_label_issues,
        get_label_quality_scores,
    )

    rankings = {}
    for method in ("softmin", "min"):
        quality, _ = get_label_quality_scores(labels, probabilities, sentence_score_method=method)
        rankings[f"cleanlab `{name}`, {method}"] = -np.asarray(quality)
    # Scores are in [-1, 0], so that every sentence with an issue is above those without.
    found = rankings[f"cleanlab `{name}`, softmin"].copy()
    order = dict.fromkeys(sentence for sentence, _ in find_label_issues(labels, probabilities))
    for place, sentence in enumerate(order):
        found[sentence] = len(order) - place
    rankings[f"cleanlab `{name}`, find_label_issues"] = found
    return rankings


def rank(options: argparse.Namespace) -> None:
    """Print the table of all rankings."""
    parts = sorted(Path(options.audit, "parts").iterdir())
    rows = [
        row
        for part in parts
        for row in pq.read_table(part).drop_columns(["context", "question"]).to_pylist()
    ]
    scored = [number for number, row in enumerate(rows) if row["label_error"] is not None]
    bad = np.array([rows[number]["corruption"] != "none" for number in scored])

    # Every ranking as values, the most suspected highest.
    rankings = {
        "Spanmill `label_error`": [rows[number]["label_error"] for number in scored],
        "plain loss `nll`": [rows[number]["nll"] for number in scored],
        "plain loss `min_nll`": [rows[number]["min_nll"] for number in scored],
        "1 - P(gold)": [1 - (rows[number]["gold_probability"] or 0.0) for number in scored],
    }
    stored = np.load(options.tokens)
    for reading in (inside, ends):
        pairs = [reading(stored[f"tokens {number}"], stored[f"gold {number}"]) for number in scored]
        labels, probabilities = [each for each, _ in pairs], [each for _, each in pairs]
        rankings |= cleanlab_rankings(reading.__name__, labels, probabilities)

    count = int(bad.sum())
    kinds = (rows[number]["corruption"] for number in scored)
    kind = next(kind for kind in kinds if kind != "none")
    print(f"{kind}: {count} corrupted of {len(scored)}\n")
    print(f"| ranking | precision at 20 | at {count} | average precision |\n|---|---|---|---|")
    for name, values in rankings.items():
        hits = bad[np.argsort(-np.array(values), kind="stable")]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        print(
            f"| {name} | {precision[19]:.2f} | {precision[count - 1]:.2f} "
            f"| {precision[hits].mean():.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    writing = verbs.add_parser("tokens")
    writing.add_argument("--input", required=True)
    writing.add_argument("--output", required=True)
    ranking = verbs.add_parser("rank")
    ranking.add_argument("--audit", required=True)
    ranking.add_argument("--tokens", required=True)
    options = parser.parse_args()
    write_tokens(options) if options.verb == "tokens" else rank(options)


if __name__ == "__main__":
    main()
