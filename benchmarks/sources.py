"""Measure what each source of training data brings: short trainings that differ in it alone.

    python -m benchmarks.sources --control train.parquet --sources 'a.parquet,b.parquet' \\
        --evaluate squad.parquet,articles.parquet --output OUT

Each training starts from `--base` and takes about `--windows` windows of the control, and as many
of one source, or all of a smaller one. In the first training both are of the control. Then every
reader is audited on about `--evaluated` windows of each evaluation file, from the half of its
passages that `model.calibrate` fits on. The table's first row has the mean passage loss of the
first reader in nats, null option off; the others have the mean difference from it, row by row
(`run_pipeline.py compare`), with its 95 % interval; less is better. The last column is how well
null_score - span_score separates the unanswerable rows of the evaluation files from the answerable
rows of the same files (AUC). The same command resumes; other options need another `--output`.

A source that resembles an evaluation file in a short training may bring less in a long one, and the
other way round: the sign is worth more than the size.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from glob import glob
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.checkpoint import location_of
from model.reading.reader import CheckpointReader
from model.training.calibration import is_fitted
from model.training.data import make_examples, read_training_rows

CONTROL = "(control)"

SCHEMA = pa.schema(
    {
        "question": pa.string(),
        "context": pa.string(),
        "answers": pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())}),
    }
)


def taken(rows: list[dict], windows: int, reader: CheckpointReader, seed: int) -> list[dict]:
    """Return rows, drawn at random, that have about `windows` windows in all."""
    rows = random.Random(seed).sample(rows, min(windows, len(rows)))  # a row has a window at least
    counts = make_examples(rows, reader.tokenizer(), 384, 128, 64).windows.counts
    return rows[: int(np.searchsorted(np.cumsum(counts), windows)) + 1]


def table_of(rows: list[dict]) -> pa.Table:
    """Return question, context and answers of rows."""
    return pa.Table.from_pylist(
        [{name: row[name] for name in SCHEMA.names} for row in rows], SCHEMA
    )


def write_evaluated(paths: list[str], windows: int, reader: CheckpointReader, output: Path) -> None:
    """Write rows of several files, about `windows` windows each; column `file` names the source.

    Only rows of the half to fit on are taken. The files that have unanswerable rows are also
    written apart.
    """
    tables = []
    for path in paths:
        rows = [row for row in read_training_rows(path) if is_fitted(row["context"])]
        table = table_of(taken(rows, windows, reader, seed=0))
        tables.append(table.append_column("file", pa.repeat(Path(path).stem, table.num_rows)))
    unanswerable = [
        table for table in tables if any(not each["text"] for each in table["answers"].to_pylist())
    ]
    if not unanswerable:
        raise SystemExit("--evaluate: no file has unanswerable rows, which the AUC is measured on")
    for name, some in (("unanswerable", unanswerable), ("all", tables)):
        table = pa.concat_tables(some)
        ids = pa.array([str(k) for k in range(table.num_rows)])
        pq.write_table(table.append_column("id", ids), output / f"{name}.parquet")


def run(*arguments: str) -> None:
    """Run a command of this repository; its output is in the folders that it writes."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=str(Path(__file__).parents[1] / "model" / "bundled"))
    parser.add_argument("--control", required=True, help="Parquet file of training rows")
    parser.add_argument("--sources", required=True, help="comma-separated files or globs")
    parser.add_argument("--evaluate", required=True, help="comma-separated Parquet files")
    parser.add_argument("--windows", type=int, default=1000, help="of each half")
    parser.add_argument("--evaluated", type=int, default=1000, help="windows of each file")
    parser.add_argument("--learning_rate", default="6e-5")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()

    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    reader = CheckpointReader(location_of(options.base))
    evaluated = options.evaluate.split(",")
    if not (output / "all.parquet").exists():
        write_evaluated(evaluated, options.evaluated, reader, output)
    # One sample in two halves, so that no row of the control is taken twice.
    both = taken(read_training_rows(options.control), 2 * options.windows, reader, seed=0)
    control, other = both[: len(both) // 2], both[len(both) // 2 :]

    sources = {CONTROL: options.control}
    for pattern in options.sources.split(","):
        found = {Path(path).stem: path for path in sorted(glob(pattern))}
        if not found or found.keys() & sources.keys():
            raise SystemExit(f"--sources: {pattern} matches nothing, or a name that is there twice")
        sources |= found
    names = [Path(path).stem for path in evaluated]
    print(f"| source | rows | {' | '.join(names)} | AUC |\n|{'---|' * (len(names) + 3)}")
    for source, path in sources.items():
        folder = output / source
        rows = other
        if source != CONTROL:
            rows = taken(read_training_rows(path), options.windows, reader, seed=0)
        if not (folder / "reader" / "training.json").exists():
            folder.mkdir(exist_ok=True)
            pq.write_table(table_of([*control, *rows]), folder / "train.parquet")
            run(
                *("-m", "model.train", "--base", options.base, "--output", str(folder / "reader")),
                *("--train", str(folder / "train.parquet"), "--keep_out", options.evaluate),
                *("--epochs", "1", "--unanswerable_share", "0", "--objective", "compound"),
                *("--shared_normalisation", "--learning_rate", options.learning_rate),
                *("--warmup", "5", "--average", "0.9"),
            )
        for name, null in (("all", "off"), ("unanswerable", "on")):
            run(
                *("run_pipeline.py", "audit", f"--null={null}", "--slice_by=file"),
                *(f"--model={folder / 'reader'}", f"--input={output / name}.parquet"),
                f"--output={folder / name}",
            )
        if source == CONTROL:
            found = json.loads((folder / "all" / "audit.json").read_text())["slices"]["file"]
            cells = [f"{found[name]['losses']['nll']['mean']:.3f}" for name in names]
        else:
            run(
                *("run_pipeline.py", "compare", f"--before={output / CONTROL / 'all'}"),
                *(f"--after={folder / 'all'}", f"--output={folder / 'difference'}"),
            )
            found = json.loads((folder / "difference" / "comparison.json").read_text())["slices"]
            cells = [difference(found["file"][name]["nll"]) for name in names]
        found = json.loads((folder / "unanswerable" / "audit.json").read_text())["all"]
        cells.append(f"{found['answerability_auc']['auc']:.3f}")
        print(f"| {source} | {len(rows)} | {' | '.join(cells)} |", flush=True)


def difference(found: dict) -> str:
    """Return a mean difference and its interval, as comparison.json has them."""
    low, high = found["interval"]
    return f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
