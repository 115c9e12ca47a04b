"""Ask 41 questions of articles: as a question list, and as rows of one input sorted by article.

    python -m benchmarks.question_list --input eval_long_covid_qa.parquet [--articles 40]
    python -m benchmarks.question_list --memory 100,1000,10000 [--documents 3]

Both jobs run in turns in one process; the medians of their times are compared, and their answers.
The time of the processor hardly depends on what else the machine does.
With --memory, a list of each length is asked of a few long documents by a tiny network, each in a
process of its own whose peak memory is printed with the size of the output.
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

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.memory import _RUN
from tests.checkpoints import build_bert

QUESTIONS = [
    "What is the name of the disease?",
    "What causes the disease?",
    "To which family does the virus belong?",
    "Where was the virus first found?",
    "In which year was the virus first found?",
    "Which animal is the reservoir of the virus?",
    "Which animals were infected?",
    "How is the virus transmitted?",
    "What is the incubation period?",
    "What are the symptoms?",
    "Which organ is affected most?",
    "Which cells does the virus infect?",
    "Which receptor does the virus use?",
    "Which protein binds the receptor?",
    "How long is the genome?",
    "How many genes does the genome have?",
    "Which gene was sequenced?",
    "How was the virus detected?",
    "Which assay was used?",
    "How many patients were included?",
    "Where was the study carried out?",
    "When was the study carried out?",
    "How were the samples collected?",
    "How many samples were positive?",
    "What share of the patients died?",
    "What are the risk factors?",
    "How old were the patients?",
    "Which drug was tested?",
    "What dose was given?",
    "Which side effects were seen?",
    "Which vaccine was used?",
    "How effective is the vaccine?",
    "Which antibody was found?",
    "What was the control group?",
    "Which statistical test was used?",
    "What did the authors conclude?",
    "Which limits does the study have?",
    "Who funded the study?",
    "Which measures reduce the spread?",
    "What does the abbreviation stand for?",
    "Which software was used?",
]


def write_jobs(source: str, articles: int, folder: Path) -> tuple[list[str], list[str]]:
    """Write both inputs; return the options of the list and of the rows."""
    contexts = dict.fromkeys(pq.read_table(source, columns=["context"]).column(0).to_pylist())
    chosen = list(contexts)[:articles]
    pq.write_table(pa.table({"context": chosen}), folder / "articles.parquet")
    lines = (json.dumps({"question": question}) for question in QUESTIONS)
    (folder / "questions.jsonl").write_text("\n".join(lines), "utf-8")
    rows = pa.table(
        {
            "question": QUESTIONS * len(chosen),
            "context": [context for context in chosen for _ in QUESTIONS],
        }
    )
    pq.write_table(rows, folder / "rows.parquet")
    listed = [f"--input={folder}/articles.parquet", f"--questions={folder}/questions.jsonl"]
    return listed, [f"--input={folder}/rows.parquet"]


def compare_times(source: str, articles: int, turns: int, model: str) -> None:
    """Run both jobs in turns and print the medians of their times."""
    import run_pipeline

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = dict(zip(("list", "rows"), write_jobs(source, articles, folder), strict=True))
        seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in jobs}
        texts = {}
        for turn in range(turns):
            for kind, options in jobs.items():
                output = folder / f"{kind}{turn}"
                began, worked = time.perf_counter(), time.process_time()
                code = run_pipeline.main(
                    ["annotate", *options, f"--output={output}", f"--model={model}"]
                )
                took = time.perf_counter() - began, time.process_time() - worked
                seconds[kind].append(took)
                assert code == 0
                texts[kind] = _texts(output)
                print(
                    f"turn {turn}, {kind}: {took[0]:.1f} s, processor {took[1]:.1f} s", flush=True
                )
        same = sum(a == b for a, b in zip(texts["list"], texts["rows"], strict=True))
        print(f"{articles} articles x {len(QUESTIONS)} questions, medians:")
        for name, column in (("time", 0), ("processor", 1)):
            listed, rows = (
                statistics.median(took[column] for took in seconds[kind]) for kind in jobs
            )
            print(f"  {name}: list {listed:.1f} s, rows {rows:.1f} s, ratio {listed / rows:.3f}")
        print(f"  {same} of {len(texts['rows'])} answers are the same")


def _texts(output: Path) -> list[str]:
    parts = [pq.read_table(path) for path in sorted((output / "parts").iterdir())]
    table = pa.concat_tables(parts)
    if "question_answers" not in table.column_names:
        return table.column("answer_text").to_pylist()
    lists = table.column("question_answers").to_pylist()
    return [answer["answer_text"] for answers in lists for answer in answers]


def measure_memory(counts: list[int], documents: int) -> None:
    """Print the peak memory of a run for each length of the list."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_bert(folder / "model")
        text = "Ada lit lamp {} at dusk, and the sea was calm under the tower of the island. " * 20
        contexts = [text.replace("{}", str(number)) for number in range(documents)]
        pq.write_table(pa.table({"context": contexts}), folder / "documents.parquet")
        for count in counts:
            lines = (json.dumps({"question": f"Who lit lamp {n}?"}) for n in range(count))
            (folder / f"{count}.jsonl").write_text("\n".join(lines), "utf-8")
            output = folder / f"out{count}"
            options = [
                "annotate",
                f"--input={folder}/documents.parquet",
                f"--questions={folder}/{count}.jsonl",
                f"--output={output}",
                f"--model={model}",
            ]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
            ran = subprocess.run(
                [sys.executable, "-c", _RUN, *options],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
                env=environment,
            )
            code, kilobytes = json.loads(ran.stdout.splitlines()[-1])
            windows = json.loads((output / "manifest.json").read_text())["windows"]
            table = [pq.read_table(path) for path in (output / "parts").iterdir()]
            largest = max(part.nbytes for part in table) / 2**20
            print(
                f"{count} questions x {documents} documents: exit code {code}, {windows} windows, "
                f"peak {kilobytes / 1024:.0f} MiB, the largest part {largest:.1f} MiB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input")
    parser.add_argument("--articles", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--memory", default="")
    parser.add_argument("--documents", type=int, default=3)
    options = parser.parse_args()
    if options.input:
        compare_times(options.input, options.articles, options.turns, options.model)
    if options.memory:
        measure_memory([int(each) for each in options.memory.split(",")], options.documents)


if __name__ == "__main__":
    main()
