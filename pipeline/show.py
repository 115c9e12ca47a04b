"""Examples of a run in the terminal, answers and golds highlighted in their passages, for example

    python -m pipeline.show out/demo
    python -m pipeline.show out/audit --worst 20 --where 'source == "law"'

Nothing of the corpus can move the cursor or retitle the terminal: control characters are spelt out.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

logging.getLogger().addHandler(
    logging.NullHandler()
)  # Beam warns of optional packages while it is imported

import pyarrow as pa
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from model.audit.golds import answers_of
from model.command import say
from pipeline.formats import where
from pipeline.formats.choose_rows import choose
from pipeline.formats.finished import FinishedRun, open_run
from pipeline.job.options import Refused
from pipeline.looks.terminal import one_line, printable
from transforms.report.passages import excerpts, pieces
from transforms.storage import StorageError, absolute

ANSWER, GOLD = "bold black on green", "underline yellow"
_MARKS = {ANSWER: "«»", GOLD: "‹›"}
"""What stands around spans where there are no colours."""

_QUOTED = 80
_OUTPUTS = (
    *(
        "status",
        "reason",
        "probability",
        "null_probability",
        "window_index",
        "num_windows",
        "n_best",
        "answer_text",
        "answer_start",
        "answer_end",
    ),
    *(
        "prediction",
        "prediction_start",
        "prediction_end",
        "gold_start",
        "gold_end",
        "gold_probability",
        "nll",
        "f1",
    ),
)

StyledSpan = tuple[int, int, str]
"""Start, end, style."""


def quoted(text: str) -> str:
    """A text of one line, cut if it is long."""
    return f"'{one_line(text[:_QUOTED])}{'…' if len(text) > _QUOTED else ''}'"


def spans_of(row: dict[str, Any], golds: Any) -> list[StyledSpan]:
    """The spans that are highlighted in a row whose output columns have lost their prefix; the answer comes last, on top."""
    found: list[tuple[Any, Any, str]] = [(row.get("gold_start"), row.get("gold_end"), GOLD)]
    if golds and golds.get("text") and golds.get("answer_start"):
        placed = zip(golds["text"], golds["answer_start"], strict=False)
        found += [
            (start, start + len(text), GOLD)
            for text, start in placed
            if text and start is not None and start >= 0
        ]
    for name in ("answer", "prediction"):
        found.append((row.get(f"{name}_start"), row.get(f"{name}_end"), ANSWER))
    return [span for span in dict.fromkeys(found) if span[0] is not None and span[1] is not None]


def excerpt(context: str, spans: Sequence[StyledSpan], around: int, marked: bool) -> Text:
    """The passage about where spans begin and end, `around` code points on either side; its beginning if there is none.

    marked  whether signs stand around the spans, for terminals without colours
    """
    # Golds of a data set may be anywhere.
    marks = [
        (style, (start, min(end, len(context))))
        for start, end, style in spans
        if start < len(context)
    ]
    parts = excerpts(len(context), [span for _, span in marks], around)
    result = Text()
    for number, (low, high) in enumerate(parts):
        result.append(" … " if number else "… " if low else "")
        begin = low
        for styles, text in pieces(context, (low, high), marks):
            stop = begin + len(text)
            if marked:
                result.append(
                    "".join(_MARKS[style][0] for style, (start, _) in marks if start == begin)
                )
            result.append(one_line(text), styles)
            if marked:
                result.append(
                    "".join(_MARKS[style][1] for style, (_, end) in reversed(marks) if end == stop)
                )
            begin = stop
    result.append(" …" if parts[-1][1] < len(context) else "")
    return result


def lines_of(run: FinishedRun, row: dict[str, Any], around: int, marked: bool) -> Iterator[Text]:
    """An example: id and question, what the model says with its probability, golds, the passage, the other candidates."""

    def given(kind: str) -> Any:
        name = run.input(kind)
        return row.get(name) if name else None

    made = {name: row.get(run.output(name)) for name in _OUTPUTS}
    yield Text.assemble(
        (one_line(str(given("id"))), "bold"), ": ", one_line(str(given("question")))
    )
    if made["status"] == "rejected":
        yield Text(f"rejected: {made['reason']}", "red")
    else:
        text = made["prediction"] if run.stage == "audit" else made["answer_text"]
        answer = Text(quoted(text), ANSWER) if text else Text("no answer", "bold")
        likely = made["probability"] if text else made["null_probability"]
        facts = [f"probability {likely:.2f}"]
        if made["window_index"] is not None:
            facts.append(f"window {made['window_index'] + 1} of {made['num_windows']}")
        if made["nll"] is not None:
            facts.append(f"loss of the gold {made['nll']:.2f}")
        if made["f1"] is not None:
            facts.append(f"F1 {made['f1']:.2f}")
        yield Text(", ").join([answer, *map(Text, facts)])
        if made["reason"]:
            yield Text(f"{made['status']}: {made['reason']}")
    golds = answers_of(given("answers"))
    if golds is not None:
        shown = [Text(quoted(text), GOLD) for text in golds.get("text") or [] if text]
        yield Text("gold: ").append(Text(" | ").join(shown) if shown else "none")
    if context := given("context"):
        yield excerpt(context, spans_of(made, golds), around, marked)
    others = (made["n_best"] or [])[1:]
    if others:
        yield Text(
            "then: "
            + " | ".join(f"{quoted(each['text'])} {each['probability']:.2f}" for each in others),
            "dim",
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.show",
        description=__doc__,
        epilog=where.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("output", help="output of annotate or audit, a folder or URL")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--id", metavar="X", help="the row with this id")
    chosen.add_argument(
        "--worst", type=_count, metavar="N", help="the rows of highest loss, of an audit"
    )
    chosen.add_argument(
        "--sample", type=_count, default=12, metavar="N", help="rows spread over all of them (12)"
    )
    parser.add_argument(
        "--where", metavar="CONDITION", help="only rows that meet a condition, see below"
    )
    parser.add_argument(
        "--around",
        type=_count,
        default=160,
        metavar="N",
        help="characters shown on either side of a span (160)",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    seen = (
        Console()
    )  # what the terminal is; a console that writes to it would fail where it is closed or full
    console = Console(
        width=seen.width,
        color_system=seen.color_system,  # type: ignore[arg-type]  # one of those that it takes
        force_terminal=seen.is_terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )
    try:
        run = open_run(absolute(options.output))
        inputs = filter(None, map(run.input, ("id", "question", "context", "answers")))
        rows = choose(run, [*inputs, *map(run.output, _OUTPUTS)], options)
        for row in rows:
            head, *rest = lines_of(run, row, options.around, marked=console.color_system is None)
            console.file = shown = io.StringIO()
            console.print(head)
            for line in rest:
                console.print(Padding(line, (0, 0, 0, 4), expand=False))
            unsaid = say(shown.getvalue(), end="")
            if isinstance(unsaid, BrokenPipeError):
                return 0  # the reader has seen enough
            if unsaid:
                print(f"standard output: {unsaid.strerror or unsaid}", file=sys.stderr)
                return 3
    except (Refused, StorageError) as error:
        print(printable(f"refused: {error}"), file=sys.stderr)
        return 2
    except (OSError, pa.ArrowException) as error:
        print(printable(f"refused: {options.output} can't be read: {error}"), file=sys.stderr)
        return 2
    if not rows:
        print("no row is like that", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
