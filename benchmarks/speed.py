"""Compare the speed of Spanmill with its peers on the same rows and the same checkpoint.

    python -m benchmarks.speed --input eval_squad_v1.parquet --rows 2000 \\
        --peer peer/bin/python --output results/squad

Each method is a separate process, which starts up (timed separately) and then runs once a round.
The order rotates by one every round, and figures are medians of the rounds. Only one process works
at any time, but all of a group stay in memory, 1 to 3 GB each. annotate, with which all others are
compared, runs in each group. Writes OUTPUT.json and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.machine import describe
from benchmarks.synthetic import write_rows

HERE = Path(__file__).parent
OWN = {
    "limit, float32": ["method_bare", "--dtype=float32"],
    "limit": ["method_bare"],
    "limit, one batch at a time": ["method_bare", "--lanes=1"],
    "annotate, float32": ["method_annotate", "annotate", "--dtype=float32"],
    "annotate": ["method_annotate", "annotate"],
    "annotate --audit": ["method_annotate", "annotate", "--audit"],
    "audit": ["method_annotate", "audit"],
    "RunInference": ["method_run_inference"],
    "RunInference, by length": ["method_run_inference", "--max_batch_size=8"],
    "ONNX Runtime, float32": ["method_exported", "--engine=onnxruntime"],
    "ONNX Runtime, int8": ["method_exported", "--engine=onnxruntime", "--precision=int8"],
    "OpenVINO, float32": ["method_exported", "--engine=openvino"],
    "torch, bfloat16": ["method_exported", "--engine=torch", "--precision=bfloat16"],
    "OpenVINO, bfloat16": ["method_exported", "--engine=openvino", "--precision=bfloat16"],
    "txtai": ["peer_txtai"],
}
REFERENCE = "annotate"
PEER = {
    f"transformers 4.57, batch {size}": ["peer_transformers", f"--batch_size={size}"]
    for size in (1, 8, 16, 32)
}


class Method:
    """A measured process, see `benchmarks.serve`.

    ready  seconds of its start-up
    runs   figures of each run
    """

    def __init__(self, name: str, python: str, module: str, arguments: list[str]):
        self.name = name
        self.runs: list[dict[str, float]] = []
        started = time.perf_counter()
        script = str(HERE / f"{module}.py")
        # Peers run in environments without Spanmill, in which the package can't be imported.
        command = [python, "-m", f"benchmarks.{module}"]
        if module.startswith("peer"):
            command = [python, script]
        # Not a pipe: what a method prints would fill it while nobody reads.
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            cwd=HERE.parent,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        self._answer()
        self.ready = time.perf_counter() - started

    def run(self) -> dict[str, float]:
        """Run once. Return the figures of the run."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.runs.append(self._answer())
        return self.runs[-1]

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.said.seek(0)
            raise SystemExit(f"{self.name} ended: {self.said.read()[-2000:]}")
        return json.loads(line)


def select(path: str, rows: int, every_nth: int, one_per_context: bool, output: Path) -> int:
    """Write the rows that all methods read, and return their number.

    path  the input; "" for a synthetic corpus
    """
    if not path:
        write_rows(output, rows)
        return rows
    table = pq.read_table(path)
    chosen = list(range(0, len(table), every_nth))
    if one_per_context:
        first: dict[str, int] = {}
        for row, context in enumerate(table.column("context").to_pylist()):
            first.setdefault(context, row)
        chosen = list(first.values())
    table = table.take(chosen[:rows])
    pq.write_table(table, output)
    return len(table)


def measure(
    group: dict[str, tuple[str, list[str]]], common: list[str], rounds: int
) -> list[Method]:
    """Run methods in turns.

    group   name -> (Python, module and arguments)
    common  arguments of all methods
    """
    methods = []
    for name, (python, (module, *arguments)) in group.items():
        methods.append(Method(name, python, module, [*common, *arguments]))
        print(f"{name}: ready after {methods[-1].ready:.1f} s", flush=True)
    for turn in range(rounds + 1):  # the first warms up and is not counted
        for method in methods[turn % len(methods) :] + methods[: turn % len(methods)]:
            print(f"round {turn}: {method.name} {method.run()['seconds']:.2f} s", flush=True)
    for method in methods:
        method.close()
        del method.runs[0]
    return methods


def result_of(method: Method, reference: Method) -> dict[str, Any]:
    """Return the figures of a method; `reference` is annotate in the same group."""
    seconds, others = ([run["seconds"] for run in each.runs] for each in (method, reference))
    return {
        "seconds": {
            "median": statistics.median(seconds),
            "least": min(seconds),
            "most": max(seconds),
            "all": seconds,
        },
        "of_annotate": statistics.median(seconds) / statistics.median(others),
        "ready": method.ready,
        "peak_mib": method.runs[-1]["peak_mib"],
        "notes": {
            key: value
            for key, value in method.runs[-1].items()
            if key not in ("seconds", "peak_mib")
        },
    }


def table_of(results: dict[str, Any]) -> str:
    """Return the Markdown table of the medians, the fastest method first."""
    lines = [
        f"{results['rows']} rows of {results['input']}, {results['rounds']} rounds in turns; "
        "medians (least to most)",
        "",
        "| method | rows/s | seconds | of annotate | start-up, s | peak MiB | notes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in sorted(
        results["methods"].items(), key=lambda item: item[1]["seconds"]["median"]
    ):
        seconds = figures["seconds"]
        notes = ", ".join(f"{key} {value:.2f}" for key, value in figures["notes"].items())
        lines.append(
            f"| {name} | {results['rows'] / seconds['median']:.1f} | {seconds['median']:.2f} "
            f"({seconds['least']:.2f} to {seconds['most']:.2f}) | {figures['of_annotate']:.3f} "
            f"| {figures['ready']:.1f} | {figures['peak_mib']:.0f} | {notes} |"
        )
    return "\n".join([*lines, "", f"Machine: {json.dumps(results['machine'])}", ""])


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input",
        default="",
        help="Parquet in the input layout (default: a synthetic corpus made from the sample)",
    )
    parser.add_argument("--model", default=str(HERE.parent / "model" / "bundled"))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--every_nth", type=int, default=1)
    parser.add_argument(
        "--one_per_context", action="store_true", help="only the first question of each document"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--methods", default="", help="names separated by semicolons (default: all)"
    )
    parser.add_argument(
        "--at_once", type=int, default=5, help="number of methods in memory, apart from annotate"
    )
    parser.add_argument(
        "--peer", default="", help="the Python of an environment with transformers 4.57.6"
    )
    parser.add_argument(
        "--output", required=True, help="base name of the .json and .md files to write"
    )
    return parser


def main() -> None:
    parser = make_parser()
    options = parser.parse_args()
    if not options.input and (options.every_nth > 1 or options.one_per_context):
        parser.error("--every_nth and --one_per_context choose rows of --input, which is not given")
    wanted = [part.strip() for part in options.methods.split(";") if part.strip()]
    known = {name: (sys.executable, command) for name, command in OWN.items()}
    if options.peer:
        known |= {name: (options.peer, command) for name, command in PEER.items()}
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        parser.error(f"--methods: {unknown} are unknown; the methods are {'; '.join(known)}")
    others = [name for name in known if name != REFERENCE and (not wanted or name in wanted)]

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "rows.parquet"
        rows = select(
            options.input, options.rows, options.every_nth, options.one_per_context, corpus
        )
        common = [f"--input={corpus}", f"--model={Path(options.model).absolute()}"]
        results: dict[str, Any] = {
            "input": Path(options.input).stem or "a synthetic corpus",
            "rows": rows,
            "rounds": options.rounds,
            "machine": describe(),
            "methods": {},
        }
        # Results are written after each group, so that an interrupted run leaves some.
        output = Path(options.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        for begin in range(0, max(1, len(others)), options.at_once):
            group = [REFERENCE, *others[begin : begin + options.at_once]]
            methods = measure({name: known[name] for name in group}, common, options.rounds)
            for method in methods:
                results["methods"].setdefault(method.name, result_of(method, methods[0]))
            output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
            output.with_suffix(".md").write_text(table_of(results))
    print(table_of(results))


if __name__ == "__main__":
    main()
