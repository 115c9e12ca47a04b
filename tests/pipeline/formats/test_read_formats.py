"""Each format row by row: what it says, where it is broken, and that no more than a piece of it is held."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.read_formats import READERS, FormatError, ImportedRow, Names, golds_of

CONTEXT = "Ada lit the lamp. Ben rang the bell."


def read(kind: str, content: str | bytes, **names: str) -> list[ImportedRow]:
    data = content.encode() if isinstance(content, str) else content
    return list(READERS[kind](io.BytesIO(data), Names(**names)))


def squad(*paragraphs: dict[str, Any], title: str = "Lamps") -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": title, "paragraphs": list(paragraphs)}]}


def asked(*answers: tuple[str, int], name: str = "q1", **more: Any) -> dict[str, Any]:
    return {"id": name, "question": "Who?", "answers": [{"text": t, "answer_start": s} for t, s in answers], **more}


class TestSquad:
    def test_both_versions(self):
        impossible = asked(name="q2", is_impossible=True, plausible_answers=[{"text": "Ben", "answer_start": 18}])
        first, second = read(
            "squad", json.dumps(squad({"context": CONTEXT, "qas": [asked(("Ada", 0), ("Ada", 0)), impossible]}))
        )
        assert first == ImportedRow("q1", "Who?", CONTEXT, [("Ada", 0), ("Ada", 0)], {"title": "Lamps"})
        assert second == ImportedRow("q2", "Who?", CONTEXT, [], {"title": "Lamps"})

    def test_a_title_is_that_of_its_own_article(self):
        content = squad({"context": CONTEXT, "qas": [asked()]})
        content["data"].append({"paragraphs": [{"context": "b", "qas": [asked(name="q2")]}]})
        assert [example.others["title"] for example in read("squad", json.dumps(content))] == ["Lamps", None]

    def test_a_question_of_which_no_answer_is_told(self):
        """Test sets come so; and a start that is missing is not made up here."""
        qas = [
            {"id": "q1", "question": "Who?"},
            {"id": "q2", "question": "Who?", "is_impossible": True},
            {"id": "q3", "question": "Who?", "answers": [{"text": "Ada"}]},
        ]
        found = read("squad", json.dumps(squad({"context": CONTEXT, "qas": qas})))
        assert [example.golds for example in found] == [None, [], [("Ada", None)]]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "paragraph 0: no JSON"),
            ("[1, 2]", "at its top stands no object with `data`, but array"),
            ("7", "at its top stands no object with `data`, but number"),
            ("{}", "it has no paragraph"),
            (json.dumps(squad({"qas": [asked()]})), "paragraph 0, question 0: .*context"),
            (json.dumps(squad({"context": "a", "qas": [asked(), {"id": 1}]})), "paragraph 0, question 1: .*question"),
            (json.dumps(squad({"context": "a", "qas": ["Who?"]})), "paragraph 0, question 0: .*malformed"),
            (
                json.dumps(squad({"context": "a", "qas": [asked() | {"answers": [{"text": None}]}]})),
                "answers of an unknown shape",
            ),
            (json.dumps(squad({"context": "a", "qas": [asked(("a", "x"))]})), "the start 'x' is no whole number"),
        ],
    )
    def test_what_is_broken_is_named(self, content: str, message: str):
        with pytest.raises(FormatError, match=message):
            read("squad", content)

    def test_a_byte_order_mark(self):
        content = json.dumps(squad({"context": CONTEXT, "qas": [asked()]})).encode("utf-8-sig")
        assert [example.id for example in read("squad", content)] == ["q1"]
        assert [example.id for example in read("jsonl", json.dumps(asked(context=CONTEXT)).encode("utf-8-sig"))] == ["q1"]

    @pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 11, 13, 64, 2**16])
    def test_half_a_surrogate_pair_is_kept_to_be_seen(self, block: int, monkeypatch: pytest.MonkeyPatch):
        """The parser would make a question mark of it. Wherever blocks end, whole pairs and written-out escapes stay."""
        monkeypatch.setattr("pipeline.formats.read_formats._BLOCK", block)
        texts = ["🌊\ud83ca\udf0ab", "\\ud800 \\\\ud800", '\\\ud800"', "\ud83c\ud83c\udf0a🌊🌊", "é\n\\"]
        content = json.dumps(squad(*[{"context": text, "qas": [asked()]} for text in texts]))
        halves = [re.sub("[\ud800-\udfff]", "\ud800", json.loads(json.dumps(text))) for text in texts]
        assert [example.context for example in read("squad", content)] == halves

    def test_rows_come_while_most_of_the_file_is_unread(self):
        paragraph = {"context": CONTEXT * 50, "qas": [asked(("Ada", 0))]}
        file = io.BytesIO(json.dumps(squad(*[paragraph] * 1000)).encode())
        rows = READERS["squad"](file, Names())
        assert [next(rows).id for _ in range(3)] == ["q1"] * 3
        assert file.tell() < len(file.getvalue()) / 10


class TestMrqa:
    HEADER = json.dumps({"header": {"dataset": "Lamps", "split": "dev"}})

    def row(self, *spans: list[int], text: str = "ben") -> str:
        detected = {"text": text, "char_spans": list(spans), "token_spans": [[0, 0]]}
        asked = {"qid": "m1", "question": "Who?", "detected_answers": [detected], "answers": [text]}
        return json.dumps({"id": "", "context": CONTEXT, "context_tokens": [], "qas": [asked]})

    def test_spans_include_their_last_character_and_are_spelt_as_the_context_does(self):
        (example,) = read("mrqa", f"{self.HEADER}\n{self.row([18, 20], [18, 20])}\n")
        assert example == ImportedRow("m1", "Who?", CONTEXT, [("Ben", 18), ("Ben", 18)], {"source": "Lamps"})

    def test_a_span_with_another_text_keeps_its_answer_so_that_it_is_seen(self):
        (example,) = read("mrqa", self.row([0, 2]))
        assert example.golds == [("ben", 0)]

    def test_what_is_broken_is_named(self):
        with pytest.raises(FormatError, match=r"line 2: .*qas"):
            read("mrqa", f"{self.HEADER}\n{{}}")
        with pytest.raises(FormatError, match=r"line 1: .*malformed"):
            read("mrqa", self.row([0, 2], text=None))
        with pytest.raises(FormatError, match=r"line 1: .*malformed"):
            read("mrqa", self.row([0]))


class TestJsonLines:
    def test_names_and_others(self):
        line = json.dumps({"key": 7, "ask": "Who?", "text": "a", "golds": {"text": ["a"], "answer_start": [0]}, "page": 3})
        (example,) = read("jsonl", f"{line}\n\n", id="key", question="ask", context="text", answers="golds")
        assert example == ImportedRow("7", "Who?", "a", [("a", 0)], {"page": 3})

    def test_a_start_that_belongs_to_no_answer_goes_along(self):
        """As in rows of annotate: theirs is that of the model's answer."""
        row = {"question": "Who?", "context": "a b", "answers": {"text": ["a"], "answer_start": [0]}, "answer_start": 2}
        (made, plain) = read("jsonl", f"{json.dumps(row)}\n{json.dumps(row | {'answers': 'b'})}")
        assert (made.golds, made.others) == ([("a", 0)], {"answer_start": 2})
        assert (plain.golds, plain.others) == ([("b", 2)], {})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"question": "Who?"}', "line 1: no 'context', only 'question'"),
            ('{"question": "Who?", "context": "a"}\nWho?', "line 2: no JSON"),
            ("[]", "line 1: list, not an object"),
        ],
    )
    def test_what_is_broken_is_named(self, content: str, message: str):
        with pytest.raises(FormatError, match=message):
            read("jsonl", content)


class TestCsv:
    def test_quotes_line_breaks_and_a_byte_order_mark(self):
        content = '\ufeffid,question,context,answers,answer_start,page\n1,"Who, then?","Ada\nlit ""it""",Ada,0,7\n'
        (example,) = read("csv", content)
        assert example == ImportedRow("1", "Who, then?", 'Ada\nlit "it"', [("Ada", 0)], {"page": "7"})

    def test_an_empty_cell_is_an_unanswerable_question_and_json_is_read(self):
        rows = read("tsv", 'question\tcontext\tanswers\nWho?\ta\t\nWho?\ta\t"{""text"": [""a""], ""answer_start"": [0]}"\n')
        assert [row.golds for row in rows] == [[], [("a", 0)]]
        assert rows[0].id is None

    def test_a_table_without_answers_says_nothing_of_them(self):
        (example,) = read("csv", "question,context\nWho?,a\n")
        assert example.golds is None

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("question,context\nWho?\n", "line 2: 2 columns in the header"),
            ("question,context\nWho?,a,b\n", "line 2: 2 columns in the header"),
            ("ask,context\nWho?,a\n", "line 2: no 'question'"),
            ('question,context\n"Who?,a\n', "after line 1"),
            (b"question,context\nWho?,\xff\n", "after line"),
            ("question,context,answers,answer_start\nWho?,a,a,first\n", "line 2: the start 'first' is no whole number"),
        ],
    )
    def test_what_is_broken_is_named(self, content: str | bytes, message: str):
        with pytest.raises(FormatError, match=message):
            read("csv", content)

    def test_a_long_cell(self):
        (example,) = read("csv", f"question,context\nWho?,{'a' * 300_000}\n")
        assert len(example.context) == 300_000


@pytest.mark.parametrize(
    ("answers", "start", "golds"),
    [
        (None, None, None),
        ("", "", []),
        ([], None, []),
        ("Ada", "3", [("Ada", 3)]),
        ("Ada", 3.0, [("Ada", 3)]),
        ("[sic]", None, [("[sic]", None)]),
        ('["Ada", "Ben"]', None, [("Ada", None), ("Ben", None)]),
        ({"text": ["Ada"], "answer_start": [3]}, None, [("Ada", 3)]),
        ("Ada", 1e12, [("Ada", 10**12)]),
        ({"text": "Ada", "answer_start": 3}, None, [("Ada", 3)]),
        ({"text": ["Ada"]}, None, [("Ada", None)]),
        ({"text": [], "answer_start": []}, None, []),
        ([{"text": "Ada", "answer_start": 3}, {"text": "Ben"}], None, [("Ada", 3), ("Ben", None)]),
    ],
)
def test_shapes_of_answers(answers: Any, start: Any, golds: Any):
    assert golds_of(answers, start, "line 1") == golds


@pytest.mark.parametrize("answers", [7, [7], [{"start": 3}], {"answer": "Ada"}, {"text": ["a"], "answer_start": []}])
def test_a_shape_that_is_none(answers: Any):
    with pytest.raises(FormatError, match="line 1: "):
        golds_of(answers, None, "line 1")


ODD = st.sampled_from(
    [
        None,
        "",
        "Ada",
        "[",
        '{"text": 3}',
        0,
        -5,
        2.5,
        float("nan"),
        float("inf"),
        1e12,
        True,
        [],
        {},
        [1],
        ["Ada"],
        [[0, 2]],
        [[0, 99]],
    ]
    + [{"text": text, "answer_start": start} for text in ("Ada", 1, [1], ["Ada"], [None]) for start in (0, "b", [0], None)]
)
QUESTION = ODD | st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "qid", "question", "is_impossible"), ODD))
QUESTION |= st.fixed_dictionaries({"id": ODD, "question": ODD, "answers": ODD | st.lists(ODD, max_size=2)})
DETECTED = st.lists(st.fixed_dictionaries({"text": ODD, "char_spans": ODD}), max_size=2)
QUESTION |= st.fixed_dictionaries({"qid": ODD, "question": ODD, "detected_answers": ODD | DETECTED})
PARAGRAPH = ODD | st.fixed_dictionaries({"context": ODD, "qas": ODD | st.lists(QUESTION, max_size=2)})
ROW = ODD | st.fixed_dictionaries(dict.fromkeys(("id", "question", "context", "answers", "answer_start", "header"), ODD))


@given(st.lists(PARAGRAPH | ROW, max_size=3), ODD)
def test_odd_files_are_read_or_named(pieces: list[Any], title: Any):
    """Whatever stands where something else should: rows, or a FormatError, and nothing else."""
    lines = "\n".join(json.dumps(piece) for piece in pieces)
    wrapped = json.dumps({"data": [{"title": title, "paragraphs": pieces}, title]})
    for kind, content in (("mrqa", lines), ("jsonl", lines), ("squad", wrapped), ("csv", lines)):
        with suppress(FormatError):
            read(kind, content)
