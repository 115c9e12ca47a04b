"""What the audit costs over annotate: the same chunk through both, in turns in one process, in CPU seconds.

python benchmarks/audit_cost.py --input gold.parquet [--rows 300] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import pyarrow.parquet as pq

from model.checkpoint import Bundled
from model.pairs import WindowLimits
from model.prediction import Decoding
from model.reader import CheckpointReader
from transforms.decode_answers import decode_answers
from transforms.make_windows import InputColumns, make_windows
from transforms.measure_loss import AuditOptions, measure_loss
from transforms.predict_spans import predict_spans
from transforms.records import Chunk, ChunkSpec
from transforms.write_chunk import OutputColumns, write_outcome

STAGES = {"annotate": ("annotate",), "audit": ("audit",), "annotate --audit": ("annotate", "audit")}


def run(chunk: Chunk, stages: tuple[str, ...], reader: CheckpointReader, null: bool, output: str) -> float:
    """CPU seconds of one chunk from its rows to its committed parts."""
    started = time.process_time()
    decoding = Decoding(null=null)
    columns = InputColumns(answers="answers" if "audit" in stages else "")
    windowed = make_windows(chunk, reader.tokenizer(), WindowLimits(384, 128, 64, 2000), columns)
    predicted = predict_spans(windowed, reader, decoding, 4096)
    answered = decode_answers(predicted, decoding, 0.0, "annotate" in stages)
    if "audit" in stages:
        answered = measure_loss(answered, decoding, AuditOptions())
    for outcome in answered.outcomes:
        write_outcome(chunk, outcome, f"{output}/{outcome.stage}", OutputColumns(tuple(chunk.table.column_names)))
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--null", action="store_true")
    options = parser.parse_args()
    table = pq.read_table(options.input).slice(0, options.rows)
    chunk = Chunk(ChunkSpec(options.input, "input", 0, 0, 0, table.num_rows, "part.parquet"), table)
    reader = CheckpointReader(Bundled())
    reader.load()
    seconds: dict[str, list[float]] = {name: [] for name in STAGES}
    with tempfile.TemporaryDirectory() as output:
        run(chunk.__class__(chunk.spec, table.slice(0, 50)), ("annotate", "audit"), reader, options.null, output)
        for _ in range(options.rounds):
            for name, stages in STAGES.items():
                seconds[name].append(run(chunk, stages, reader, options.null, output))
    base = seconds["annotate"]
    for name, each in seconds.items():
        ratios = [mine / other for mine, other in zip(each, base, strict=True)]
        print(f"{name}: median {statistics.median(each):.2f} s, ratio to annotate {statistics.median(ratios):.4f} {ratios}")


if __name__ == "__main__":
    main()
