"""Compare a split reader with the whole one: many questions of a passage, and one.

    python -m benchmarks.split --squad eval_squad_v1.parquet --articles eval_long_covid_qa.parquet

Runs annotate with the whole checkpoint and with the same weights split after 2, 3, 4 and 5 layers,
in turns within one process. The split ones are not trained, so their answers are wrong and only
their speed means something; `python -m model.train --split` trains one.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from benchmarks.method_annotate import run_stage
from benchmarks.speed import HERE, select
from model.checkpoint import LocalFolder, read_config
from model.reading.reader import CheckpointReader

MODEL = HERE.parent / "model" / "bundled"


def write_split(model: Path, lower: int, max_question: int, folder: Path) -> str:
    """Copy a checkpoint, and say in its config that `lower` layers read apart."""
    shutil.copytree(model, folder)
    pair_format = CheckpointReader(LocalFolder(str(model))).tokenizer().format
    config = read_config(model)
    position = pair_format.split(max_question).passage_position
    apart = {"split": lower, "passage_position": position}
    config["spanmill"] = {**config.get("spanmill", {}), **apart}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def write_questions_of_articles(path: str, questions: int, articles: int, output: Path) -> None:
    """Write rows that ask the first distinct questions of a file of each of its first contexts."""
    table = pq.read_table(path)
    asked = list(dict.fromkeys(table.column("question").to_pylist()))[:questions]
    contexts = list(dict.fromkeys(table.column("context").to_pylist()))[:articles]
    pairs = [(question, context) for context in contexts for question in asked]
    columns = {
        "id": [str(k) for k in range(len(pairs))],
        "question": [question for question, _ in pairs],
        "context": [context for _, context in pairs],
    }
    pq.write_table(pa.table(columns), output)


def inputs(options: argparse.Namespace, folder: str) -> Iterator[tuple[str, str]]:
    """Write the rows of each case; yield its name and its file."""
    path = f"{folder}/squad.parquet"
    if options.squad:
        select(options.squad, options.rows, 1, False, Path(path))
        yield "the passages' questions", path
        path = f"{folder}/one.parquet"
        select(options.squad, options.passages, 1, True, Path(path))
        yield "one question per passage", path
    if options.articles:
        path = f"{folder}/articles.parquet"
        sizes = options.questions, options.documents
        write_questions_of_articles(options.articles, *sizes, Path(path))
        yield f"{options.questions} questions x {options.documents} articles", path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--squad", default="", help="Parquet, several questions per passage")
    parser.add_argument("--articles", default="", help="Parquet, long contexts")
    parser.add_argument("--rows", type=int, default=2000, help="of --squad, with all questions")
    parser.add_argument("--passages", type=int, default=1000, help="of --squad, with one question")
    parser.add_argument("--questions", type=int, default=41, help="of each article")
    parser.add_argument("--documents", type=int, default=5, help="articles")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--splits", default="2,3,4,5")
    parser.add_argument("--max_question", type=int, default=64, help="that positions are kept for")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu_seconds", action="store_true", help="for a machine that is not idle")
    parser.add_argument("annotate", nargs="*", help="options of annotate, after --")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    print(json.dumps(describe()))
    with tempfile.TemporaryDirectory() as folder:
        models = {"whole": options.model}
        for lower in map(int, options.splits.split(",")):
            copy = Path(folder) / f"split-{lower}"
            written = write_split(Path(options.model), lower, options.max_question, copy)
            models[f"split {lower}"] = written
        for case, path in inputs(options, folder):
            seconds: dict[str, list[float]] = {name: [] for name in models}
            names = list(models)
            for turn in range(options.rounds + 1):  # the first warms up and is not counted
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    run = partial(run_stage, path, models[name], "annotate", *options.annotate)
                    begun = clock()
                    run()
                    if turn:
                        seconds[name].append(clock() - begun)
            whole = statistics.median(seconds["whole"])
            for name, each in seconds.items():
                median = statistics.median(each)
                print(
                    f"{case}: {name}: {median:.2f} s, {whole / median:.2f} times as fast",
                    flush=True,
                )


if __name__ == "__main__":
    main()
