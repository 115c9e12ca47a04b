"""How precise the head of the list of suspected label errors is, against cleanlab and against plain losses.

    python -m benchmarks.corrupt_golds make --input gold.parquet --kind moved --one_gold --output corrupted.parquet
    python run_pipeline.py audit --input corrupted.parquet --output OUT
    python -m benchmarks.label_errors tokens --input corrupted.parquet --output tokens.npz
    python -m benchmarks.label_errors rank --audit OUT --tokens tokens.npz

`rank` needs cleanlab (`pip install cleanlab`, apart from what Spanmill needs) and prints a Markdown table: of the golds that
were corrupted on purpose, how many are among the first N of each ranking, N being how many were corrupted, and the average
precision. Golds that were wrong before count as false alarms of every ranking alike.

cleanlab's token classification (Wang & Mueller 2022, arXiv:2210.03920) takes class probabilities of every token. Two readings:
`inside`, two classes, the probability that a token lies in the answer (of a start at or before it and no end before it);
`ends`, two classes, start or not and end or not, the tokens of both networks in one sentence. Its two ways to make one score
of a sentence are both there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq


def write_tokens(options: argparse.Namespace) -> None:
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
    for begin in range(0, table.num_rows, 200):
        rows = table.slice(begin, 200)
        spec = ChunkSpec(
            str(options.input), "input", 0, begin, begin, rows.num_rows, "part.parquet"
        )
        windowed = make_windows(Chunk(spec, rows, None), reader.tokenizer(), limits, columns)
        tokens, found = token_probabilities(reader, windowed.windows, batch_tokens=4096)
        assert windowed.golds is not None
        for row, pair in enumerate(windowed.row_pair.tolist()):
            golds = windowed.golds.of_row[row]
            if len(golds):
                gold = windowed.golds.first[golds[0]], windowed.golds.last[golds[0]]
                held[f"gold {begin + row}"] = np.array(gold)
                held[f"tokens {begin + row}"] = found[
                    :, tokens.bounds[pair] : tokens.bounds[pair + 1]
                ]
    np.savez(options.output, **held)


def inside(tokens: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and class probabilities of the reading `inside`."""
    starts, ends = np.cumsum(tokens, 1)
    p = np.clip(starts - np.concatenate([[0.0], ends[:-1]]), 0, 1)
    place = np.arange(tokens.shape[1])
    return ((place >= gold[0]) & (place <= gold[1])).astype(int), np.stack([1 - p, p], 1)


def ends(tokens: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and class probabilities of the reading `ends`."""
    labels = np.zeros(tokens.shape, int)
    labels[[0, 1], gold] = 1
    return labels.ravel(), np.stack([1 - tokens.ravel(), tokens.ravel()], 1)


def rank(options: argparse.Namespace) -> None:
    from cleanlab.token_classification.rank import get_label_quality_scores

    parts = sorted(Path(options.audit, "parts").iterdir())
    rows = [
        row
        for part in parts
        for row in pq.read_table(part).drop_columns(["context", "question"]).to_pylist()
    ]
    scored = [place for place, row in enumerate(rows) if row["label_error"] is not None]
    bad = np.array([rows[place]["corruption"] != "none" for place in scored])
    rankings = {
        "Spanmill `label_error`": [rows[place]["label_error"] for place in scored],
        "plain loss `nll`": [rows[place]["nll"] for place in scored],
        "plain loss `min_nll`": [rows[place]["min_nll"] for place in scored],
        "1 - P(gold)": [1 - (rows[place]["gold_probability"] or 0.0) for place in scored],
    }
    stored = np.load(options.tokens)
    for reading in (inside, ends):
        pairs = [reading(stored[f"tokens {place}"], stored[f"gold {place}"]) for place in scored]
        labels, probabilities = [each for each, _ in pairs], [each for _, each in pairs]
        for method in ("softmin", "min"):
            quality, _ = get_label_quality_scores(
                labels, probabilities, sentence_score_method=method
            )
            rankings[f"cleanlab `{reading.__name__}`, {method}"] = (-np.asarray(quality)).tolist()
    count = int(bad.sum())
    kind = next(
        rows[place]["corruption"] for place in scored if rows[place]["corruption"] != "none"
    )
    print(f"{kind}: {count} corrupted of {len(scored)}\n")
    print(f"| ranking | precision at 20 | at {count} | average precision |\n|---|---|---|---|")
    for name, values in rankings.items():
        hits = bad[np.argsort(-np.array(values), kind="stable")]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        print(
            f"| {name} | {precision[19]:.2f} | {precision[count - 1]:.2f} | {precision[hits].mean():.3f} |"
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
