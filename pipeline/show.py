"""Show examples of a run in the terminal, with answers and golds highlighted, for example

    python -m pipeline.show out/demo
    python -m pipeline.show out/audit --worst 20 --where 'source == "law"'

Control characters are spelt out, so that text can't move the cursor or retitle the terminal.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

logging.getLogger().addHandler(logging.NullHandler())  # Beam warns of optional packages on import

import pyarrow as pa
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from model.audit.golds import golds_of
from model.command import say
from pipeline.formats import where
from pipeline.formats.choose_rows import choose
from pipeline.formats.finished import FinishedRun, open_run
from pipeline.job.options import Refused
from pipeline.looks.result import print_refusal
from pipeline.looks.terminal import one_line
from transforms.report.passages import excerpts, pieces
from transforms.storage import StorageError, absolute

ANSWER, GOLD = "bold black on green", "underline yellow"
_MARKS = {ANSWER: "«»", GOLD: "‹›"}
"""Marks before and after a span on terminals without colours, by style."""

_QUOTED = 80
_ANSWERS = 12
_OUTPUTS = (
    # both stages
    *("status", "reason", "probability", "null_probability", "window_index", "num_windows"),
    # annotate
    *("n_best", "all_answers", "answer_text", "answer_start", "answer_end", "page", "section"),
    # audit
    *("prediction", "prediction_start", "prediction_end", "gold_start", "gold_end"),
    *("gold_probability", "nll", "f1"),
)
"""The output columns that are shown."""

StyledSpan = tuple[int, int, str]
"""Start, end, style."""


def quoted(text: str) -> str:
    """Return a text in quotation marks on one line, shortened to 80 code points."""
    return f"'{one_line(text[:_QUOTED])}{'…' if len(text) > _QUOTED else ''}'"


def spans_of(row: dict[str, Any], golds: Any) -> list[StyledSpan]:
    """Return the spans of a row to highlight; the answer comes last, so that it is on top.

    row    values by the names of output columns without the run's prefix
    golds  {"text": [...], "answer_start": [...]}, or None
    """
    # The gold of an audit comes first: spans that follow are drawn over it.
    spans: list[tuple[Any, Any, str]] = [(row.get("gold_start"), row.get("gold_end"), GOLD)]
    if golds and golds.get("text") and golds.get("answer_start"):
        for text, start in zip(golds["text"], golds["answer_start"], strict=False):
            if text and start is not None and start >= 0:
                spans.append((start, start + len(text), GOLD))
    for answer in row.get("all_answers") or ():
        spans.append((answer["start"], answer["end"], ANSWER))
    for name in ("answer", "prediction"):
        spans.append((row.get(f"{name}_start"), row.get(f"{name}_end"), ANSWER))
    return [span for span in dict.fromkeys(spans) if span[0] is not None and span[1] is not None]


def excerpt(context: str, spans: Sequence[StyledSpan], around: int, marked: bool) -> Text:
    """Return the parts of a passage around the ends of spans; its beginning if there are none.

    around  code points shown on either side
    marked  whether marks surround the spans, for terminals without colours
    """
    # Golds of a data set may lie beyond the end of the context.
    marks = [
        (style, (start, min(end, len(context))))
        for start, end, style in spans
        if start < len(context)
    ]
    parts = excerpts(context, [span for _, span in marks], around)
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


def entries(
    run: FinishedRun, rows: Sequence[dict[str, Any]], question: str | None
) -> Iterator[dict[str, Any]]:
    """Yield what is shown of rows: each row, or one for each of its answers to a question list.

    question  the id of the only question to show

    An answer to a question list has the columns that a row with one question has, the question
    among them, and `question_id`; golds are those of other questions and left out.
    """
    if not run.question_answers:
        yield from rows
        return
    context, identifier = run.input("context"), run.input("id")
    for row in rows:
        for answer in row[run.question_answers]:
            if question not in (None, answer["question_id"]):
                continue
            kept = {name: row[name] for name in (context, identifier) if name}
            outputs = {run.output(name): value for name, value in answer.items()}
            asked = {name: answer[name] for name in ("question", "question_id")}
            yield {**kept, **outputs, **asked}


def lines_of(run: FinishedRun, row: dict[str, Any], around: int, marked: bool) -> Iterator[Text]:
    """Yield the lines of one of `entries`.

    These are id and question, the model's answer with its probability, golds, the passage, the
    other candidates, and all answers of a run with --all_answers.

    around, marked  as in `excerpt`
    """

    def input_value(kind: str) -> Any:
        name = run.input(kind)
        return row.get(name) if name else None

    outputs = {name: row.get(run.output(name)) for name in _OUTPUTS}
    head, question = str(input_value("id")), input_value("question")
    if run.question_answers:
        head, question = f"{head}, {row['question_id']}", row["question"]
    yield Text.assemble((one_line(head), "bold"), ": ", one_line(str(question)))
    if outputs["status"] == "rejected":
        yield Text(f"rejected: {outputs['reason']}", "red")
    else:
        yield _answer_line(outputs, audited=run.stage == "audit")
        if outputs["reason"]:
            yield Text(f"{outputs['status']}: {outputs['reason']}")
    golds = golds_of(input_value("answers"))
    if golds is not None:
        texts = [Text(quoted(text), GOLD) for text in golds.get("text") or [] if text]
        yield Text("gold: ").append(Text(" | ").join(texts) if texts else "none")
    if context := input_value("context"):
        yield excerpt(context, spans_of(outputs, golds), around, marked)
    # An answer that is below the threshold is shown only here.
    shown = 0 if outputs["status"] == "below_threshold" else 1
    others = [each for each in (outputs["n_best"] or [])[shown:] if each["probability"] >= 0.005]
    if others:
        yield Text(f"then: {_listed(others)}", "dim")
    if outputs["all_answers"]:
        yield Text(f"all answers: {_listed(outputs['all_answers'])}", "dim")


def _listed(candidates: Sequence[Mapping[str, Any]]) -> str:
    """Return the texts of candidates with their probabilities."""
    return " | ".join(f"{quoted(each['text'])} {each['probability']:.2f}" for each in candidates)


def _answer_line(outputs: dict[str, Any], audited: bool) -> Text:
    """Return the model's answer, its probability, its window and its losses."""
    text = outputs["prediction"] if audited else outputs["answer_text"]
    below = outputs["status"] == "below_threshold"
    nothing = Text("below the threshold" if below else "no answer", "bold")
    answer = Text(quoted(text), ANSWER) if text else nothing
    probability = outputs["probability"] if text or below else outputs["null_probability"]
    facts = [f"probability {probability:.2f}"]
    if outputs["window_index"] is not None:
        facts.append(f"window {outputs['window_index'] + 1} of {outputs['num_windows']}")
    if outputs["page"] is not None:
        facts.append(f"page {outputs['page']}")
    if outputs["section"]:
        facts.append(f"section {quoted(outputs['section'])}")
    if outputs["nll"] is not None:
        facts.append(f"loss of the gold {outputs['nll']:.2f}")
    if outputs["f1"] is not None:
        facts.append(f"F1 {outputs['f1']:.2f}")
    return Text(", ").join([answer, *map(Text, facts)])


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
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
        "--worst", type=_count, metavar="N", help="the N rows of highest loss, for an audit"
    )
    chosen.add_argument(
        "--sample",
        type=_count,
        metavar="N",
        help="N rows spread evenly over all (default: as many as give 12 answers)",
    )
    parser.add_argument(
        "--question",
        metavar="X",
        help="only the answers to the question with this id, for a run with --questions",
    )
    parser.add_argument(
        "--where", metavar="CONDITION", help="only rows that meet a condition, see below"
    )
    parser.add_argument(
        "--around",
        type=_count,
        default=160,
        metavar="N",
        help="characters shown on either side of a span (default: 160)",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _fill_in_sample(options: argparse.Namespace, run: FinishedRun) -> None:
    """Set --sample if it is left out. Raises Refused for --question without a question list."""
    if options.question is not None and not run.question_answers:
        raise Refused(f"--question={options.question}: {run.folder} was not run with --questions")
    per_row = run.questions if options.question is None else 1
    options.sample = options.sample or max(1, _ANSWERS // per_row)


def _console() -> Console:
    """Make a console with the width and colours of the terminal, to be written to a buffer.

    `say` prints the buffer; a console on a closed or full standard output would raise.
    """
    terminal = Console()
    return Console(
        width=terminal.width,
        color_system=terminal.color_system,  # type: ignore[arg-type]  # a literal of the same type
        force_terminal=terminal.is_terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code.

    0 rows were shown, 1 no row was chosen, 2 the run or an option was refused, 3 standard output
    can't be written.
    """
    options = make_parser().parse_args(arguments)
    console = _console()
    try:
        run = open_run(absolute(options.output))
        inputs = filter(None, map(run.input, ("id", "question", "context", "answers")))
        _fill_in_sample(options, run)
        columns = [*inputs, *map(run.output, _OUTPUTS), run.question_answers]
        rows = list(entries(run, choose(run, columns, options), options.question))
        for row in rows:
            head, *rest = lines_of(run, row, options.around, marked=console.color_system is None)
            console.file = buffer = io.StringIO()
            console.print(head)
            for line in rest:
                console.print(Padding(line, (0, 0, 0, 4), expand=False))
            unsaid = say(buffer.getvalue(), end="")
            if isinstance(unsaid, BrokenPipeError):
                return 0  # the reader of the pipe has seen enough
            if unsaid:
                print(f"standard output: {unsaid.strerror or unsaid}", file=sys.stderr)
                return 3
    except (Refused, StorageError, OSError, pa.ArrowException) as error:
        return print_refusal(error, options.output)
    if not rows:
        print("no row matches", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
