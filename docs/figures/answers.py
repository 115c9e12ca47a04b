"""Draw the README's picture: questions to the bundled sample, with the bundled reader's answers.

python docs/figures/answers.py docs/figures/answers.svg
"""

from __future__ import annotations

import sys
import textwrap
from html import escape
from pathlib import Path
from typing import Any

from model import SpanReader
from model.reading.span_reader import Answer
from pipeline.bundled.build import load_sources

SHOWN = {
    "long-lighthouse-karrow-head-q14": "An answer late in a long document",
    "long-river-down-the-isken-q25": "No answer in the document, and it says so",
    "sports-wheel-relay-q1": "The other candidates, on the same scale",
}
"""What is shown of the sample, by id, with its caption."""

WIDTH, CARD = 860, 140
BARS, FULL = 560, 200
"""Where the bars begin, and the length of a bar of probability 1."""

STYLE = """
text { font: 14px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.small { font-size: 12px; fill: #59636e }
.question { font-size: 15px; font-weight: 600 }
.answer { font-weight: 700; fill: #1a7f37 }
"""


def quotation(context: str, answer: Answer) -> list[str]:
    """Return the passage around an answer as lines of SVG text, the answer highlighted."""
    begin = max(0, context.find(" ", answer.answer_start - 34)) if answer.answer_start > 34 else 0
    # Spaces that don't break keep the answer on one line.
    kept = answer.answer_text.replace(" ", "\xa0")
    shown = context[begin : answer.answer_start] + kept + context[answer.answer_end :]
    lines = textwrap.wrap(f"{'…' if begin else ''}{shown}", 72, max_lines=2, placeholder=" …")
    marked = f'<tspan class="answer">{escape(kept)}</tspan>'
    return [escape(line).replace(escape(kept), marked, 1) for line in lines]


def text(x: float, y: float, content: str, style: str = "", more: str = "") -> str:
    """Return a line of SVG text; `content` is markup."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}"{more}>{content}</text>'


def windows(y: float, answer: Answer) -> list[str]:
    """Return the windows of a passage as a row of squares, the answer's filled."""
    squares = []
    for index in range(answer.num_windows):
        holds = answer.answer_text and index == answer.window_index
        squares.append(
            f'<rect x="{20 + 15 * index}" y="{y - 10:g}" width="12" height="12" rx="2" '
            f'fill="{"#1a7f37" if holds else "#d1d9e0"}"/>'
        )
    place = f"window {answer.window_index + 1} of {answer.num_windows}"
    if not answer.answer_text:
        place = f"{answer.num_windows} windows"
    if answer.num_windows == 1:
        place = "a passage of one window"
    elif answer.windows_read:
        place += f"; {answer.windows_read} were read, by their match with the question"
    return [*squares, text(26 + 15 * answer.num_windows, y, place, "small")]


def bars(y: float, answer: Answer, threshold: float) -> list[str]:
    """Return the two best candidates as bars, each crossed by the threshold."""
    drawn = []
    x = BARS + FULL * threshold
    for number, each in enumerate(answer.n_best[:2]):
        top = y + 42 * number
        shown = each.probability >= threshold
        color = "#1a7f37" if shown else "#afb8c1"
        drawn += [
            text(BARS, top, escape(each.text), "answer" if shown else "small"),
            f'<rect x="{BARS}" y="{top + 6:g}" width="{FULL * each.probability:.0f}" height="12" '
            f'rx="2" fill="{color}"/>',
            text(BARS + FULL * each.probability + 6, top + 16, f"{each.probability:.2f}", "small"),
            f'<path d="M{x:g} {top + 3:g}v18" stroke="#cf222e" stroke-dasharray="3 2"/>',
        ]
    return drawn


def card(top: float, row: dict[str, Any], answer: Answer, threshold: float) -> list[str]:
    """Return the drawing of one question."""
    lines = ['<tspan class="small">Don’t know: no candidate reaches the threshold.</tspan>']
    if answer.answer_text:
        lines = quotation(row["context"], answer)
    return [
        f'<rect x="0.5" y="{top + 0.5:g}" width="{WIDTH - 1}" height="{CARD - 8}" rx="8" '
        'fill="#ffffff" stroke="#d1d9e0"/>',
        text(20, top + 24, SHOWN[row["id"]], "small"),
        text(20, top + 48, escape(row["question"]), "question"),
        *(text(20, top + 72 + 20 * number, line) for number, line in enumerate(lines)),
        *windows(top + CARD - 22, answer),
        *bars(top + 44, answer, threshold),
    ]


def main(path: str) -> None:
    """Draw the picture. Raises SystemExit if an answer that is shown is not a gold."""
    reader = SpanReader.load(read_windows=3, min_probability="precision:0.8")
    threshold = float(reader.decoding.min_probability)
    sample = {row["id"]: row for row in load_sources()}
    drawn = []
    for number, name in enumerate(SHOWN):
        row = sample[name]
        answer = reader.answer(row["question"], row["context"])
        if answer.answer_text not in (row["answers"]["text"] or [None]):
            raise SystemExit(f"{name}: {answer.answer_text!r} is not a gold: choose another row")
        drawn += card(CARD * number, row, answer, threshold)
    height = CARD * len(SHOWN) + 16
    legend = (
        "dashed: the probability above which 80 % of this reader's answers to SQuAD are right "
        f"({threshold:.2f})"
    )
    drawn.append(text(WIDTH - 4, height - 6, legend, "small", ' text-anchor="end"'))
    Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">\n'
        f'<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{height}" fill="#f6f8fa"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n",
        "utf-8",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
