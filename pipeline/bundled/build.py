"""Build the bundled sample: the readable files in source/ become one Parquet file.

    python -m pipeline.bundled.build [OUTPUT.parquet]

Run it from the root of the repository. The default output is sample.parquet next to this file. A
source file is UTF-8 text:

    # history
    ## history-harbour-clock
    The clock was built in 1871. Its cost was met by the pilots' guild. In 1871 bells were dear.

    A blank line between paragraphs is kept.
    ### Questions
    - Q: When was the clock built?
      A: 1871 [1]
    - Q: Who paid for it?
      A: the pilots' guild | pilots' guild
    - Q: What colour was the bell rope?

The first line names the source and equals the file's name without ".md". Each passage starts with
its id; its context is the text up to "### Questions", without the blank lines around it. " | "
separates several gold answers to one question; a question without an A line has no answer in the
passage. An answer is copied verbatim from the passage; if it occurs there more than once, " [2]"
after it selects the second occurrence. Nothing is normalised: decomposed text stays decomposed.
Anything else in a file is refused, and so are answers that are missing or ambiguous.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
ROW_GROUP_SIZE = 64  # small, so that the sample has several row groups
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        (
            "answers",
            pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))]),
        ),
    ]
)


class SourceError(ValueError):
    """A source file breaks the format; the message names the passage and the question."""


def find_gold(context: str, gold: str) -> tuple[str, int]:
    """Return the answer's text and its start in code points.

    gold  the answer, which may end in a mark such as " [2]"

    Raises SourceError.
    """
    marked = re.fullmatch(r"(.*\S) \[(\d+)\]", gold)
    text = marked[1] if marked else gold
    if not text or text != text.strip():
        raise SourceError(f"the answer {text!r} is empty or has blanks around it")
    # A lookahead finds occurrences that overlap.
    starts = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if not starts:
        raise SourceError(f"the answer {text!r} is not in the passage")
    if len(starts) > 1 and not marked:
        raise SourceError(
            f"the answer {text!r} occurs {len(starts)} times: say which one is meant, "
            f"e.g. '{text} [1]'"
        )
    nth = int(marked[2]) if marked else 1
    if not 1 <= nth <= len(starts):
        raise SourceError(
            f"the answer {text!r} has no occurrence [{nth}]: the passage has {len(starts)}"
        )
    return text, starts[nth - 1]


def parse_questions(text: str) -> list[tuple[str, list[str]]]:
    """Read the lines under "### Questions" as (question, gold answers) pairs."""
    pairs: list[tuple[str, list[str]]] = []
    for line in filter(None, text.split("\n")):
        if question := re.fullmatch(r"- Q: (\S.*)", line):
            pairs.append((question[1], []))
        elif (answer := re.fullmatch(r"  A: (\S.*)", line)) and pairs and not pairs[-1][1]:
            pairs[-1][1].extend(answer[1].split(" | "))
        else:
            raise SourceError(f"unexpected line {line!r} among the questions")
    return pairs


def parse_passage(source: str, block: str) -> list[dict[str, Any]]:
    """Parse one passage, given from its id on, into one row for each question."""
    head, _, tail = block.partition("\n### Questions\n")
    passage, _, body = head.partition("\n")
    context = body.strip("\n")
    where = f"passage {passage!r}"
    try:
        if not re.fullmatch(r"[a-z0-9-]+", passage) or not context or not tail.strip():
            raise SourceError(
                'a passage needs an id of a-z, 0-9 and "-", a text, and questions under '
                '"### Questions"'
            )
        rows = []
        for number, (question, golds) in enumerate(parse_questions(tail), 1):
            where = f"passage {passage!r}, question {number} ({question!r})"
            spans = [find_gold(context, gold) for gold in golds]
            answers = {
                "text": [text for text, _ in spans],
                "answer_start": [start for _, start in spans],
            }
            rows.append(
                {
                    "id": f"{passage}-q{number}",
                    "source": source,
                    "question": question,
                    "context": context,
                    "answers": answers,
                }
            )
    except SourceError as error:
        raise SourceError(f"{where}: {error}") from None
    return rows


def parse(text: str) -> list[dict[str, Any]]:
    """Parse a source file's text into rows, in the order of its questions."""
    title, *blocks = re.split(r"^## ", text, flags=re.MULTILINE)
    source = re.fullmatch(r"# (\S+)\n+", title)
    if not source or not blocks:
        raise SourceError(
            f"a source file has '# NAME' and then passages; this one starts with {title[:60]!r}"
        )
    return [row for block in blocks for row in parse_passage(source[1], block)]


def check(rows: list[dict[str, Any]]) -> None:
    """Raise SourceError for an id that is used twice and a span that does not hold its answer."""
    for row_id, uses in Counter(row["id"] for row in rows).items():
        if uses > 1:
            raise SourceError(f"the id {row_id!r} is used {uses} times")
    for row in rows:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            if row["context"][start : start + len(text)] != text:
                raise SourceError(f"{row['id']}: the answer {text!r} does not start at {start}")


def load_sources(folder: Path = HERE / "source") -> list[dict[str, Any]]:
    """Parse and check every source file in `folder`, in the order of their names."""
    rows = []
    for path in sorted(folder.glob("*.md")):
        try:
            parsed = parse(path.read_text(encoding="utf-8"))
            if any(row["source"] != path.stem for row in parsed):
                raise SourceError(f"the first line must be '# {path.stem}'")
        except SourceError as error:
            raise SourceError(f"{path.name}: {error}") from None
        rows += parsed
    check(rows)
    return rows


def build(output: Path) -> list[dict[str, Any]]:
    """Write the sample to `output` and return its rows."""
    rows = load_sources()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), output, row_group_size=ROW_GROUP_SIZE)
    return rows


def main() -> None:
    """Run from the command line."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "sample.parquet"
    try:
        rows = build(output)
    except SourceError as error:
        sys.exit(f"error: {error}")
    unanswerable = sum(not row["answers"]["text"] for row in rows)
    passages = len({row["context"] for row in rows})
    print(
        f"{output}: {len(rows)} questions on {passages} passages, {unanswerable} of them without "
        "an answer"
    )


if __name__ == "__main__":
    main()
