"""Compare a split reader with the whole one: many questions of a passage, and one.

    python -m benchmarks.split --squad eval_squad_v1.parquet --articles eval_long_covid_qa.parquet

Runs annotate with the whole checkpoint and with the same weights split after 2, 3, 4 and 5 layers,
in turns within one process. The split ones are not trained, so their answers are wrong and only
their speed means something; `python -m model.train --split` trains one. Each turn has other rows: a
split reader keeps what it made of the last ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from benchmarks.method_annotate import run_stage
from benchmarks.speed import HERE
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


def passages_questions(path: str, rows: int, turn: int) -> pa.Table:
    """Return the rows of one turn, with all questions of their passages."""
    return pq.read_table(path).slice(turn * rows, rows)


def one_question(path: str, passages: int, turn: int) -> pa.Table:
    """Return the first row of each passage of one turn, from the end of the file."""
    table = pq.read_table(path)
    first: dict[str, int] = {}
    for row, context in enumerate(table.column("context").to_pylist()):
        first.setdefault(context, row)
    return table.take(list(first.values())[::-1][turn * passages : (turn + 1) * passages])


def questions_of_articles(path: str, questions: int, articles: int, turn: int) -> pa.Table:
    """Return rows that ask the first distinct questions of a file of the contexts of one turn."""
    table = pq.read_table(path)
    asked = list(dict.fromkeys(table.column("question").to_pylist()))[:questions]
    contexts = list(dict.fromkeys(table.column("context").to_pylist()))
    pairs = [
        (question, context)
        for context in contexts[turn * articles : (turn + 1) * articles]
        for question in asked
    ]
    columns = {
        "id": [str(k) for k in range(len(pairs))],
        "question": [question for question, _ in pairs],
        "context": [context for _, context in pairs],
    }
    return pa.table(columns)


def cases(options: argparse.Namespace) -> dict[str, Callable[[int], pa.Table]]:
    """Return by name what makes the rows of a turn."""
    found: dict[str, Callable[[int], pa.Table]] = {}
    if options.squad and options.rows:
        found["passages' questions"] = partial(passages_questions, options.squad, options.rows)
    if options.squad and options.passages:
        found["one question per passage"] = partial(one_question, options.squad, options.passages)
    if options.articles:
        sizes = options.questions, options.documents
        name = f"{options.questions} questions x {options.documents} articles"
        found[name] = partial(questions_of_articles, options.articles, *sizes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--squad", default="", help="Parquet, several questions per passage")
    parser.add_argument("--articles", default="", help="Parquet, long contexts")
    parser.add_argument("--rows", type=int, default=1600, help="of --squad, per turn")
    parser.add_argument("--passages", type=int, default=300, help="of --squad, per turn")
    parser.add_argument("--questions", type=int, default=41, help="per article")
    parser.add_argument("--documents", type=int, default=5, help="articles per turn")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--splits", default="2,3,4,5")
    parser.add_argument("--max_question", type=int, default=64, help="tokens reserved for it")
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
        for model in models.values():  # load each once
            run_stage("bundled", model, "annotate", "--limit=20", *options.annotate)
        names = list(models)
        for case, rows_of in cases(options).items():
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(options.rounds):
                path = f"{folder}/rows.parquet"
                pq.write_table(rows_of(turn), path)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    begun = clock()
                    run_stage(path, models[name], "annotate", *options.annotate)
                    seconds[name].append(clock() - begun)
            for name, each in seconds.items():
                faster = [a / b for a, b in zip(seconds["whole"], each, strict=True)]
                print(
                    f"{case}: {name}: {statistics.median(each):.2f} s, "
                    f"{statistics.median(faster):.2f} times as fast "
                    f"({min(faster):.2f} to {max(faster):.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
