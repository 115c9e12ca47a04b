"""Each format row by row: its rows, its broken places, and how little of it is in memory."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.imported_rows import FileLayout, FormatError, ImportedRow, row_problem
from pipeline.formats.read_formats import READERS, recognise

CONTEXT = "Ada lit the lamp. Ben rang the bell."


def read(kind: str, content: str | bytes, **layout: str) -> list[ImportedRow]:
    data = content.encode() if isinstance(content, str) else content
    return list(READERS[kind](io.BytesIO(data), FileLayout(**layout)))


class TestMrqa:
    HEADER = json.dumps({"header": {"dataset": "Lamps", "split": "dev"}})

    def row(self, *spans: list[int], text: str = "ben") -> str:
        detected = {"text": text, "char_spans": list(spans), "token_spans": [[0, 0]]}
        asked = {"qid": "m1", "question": "Who?", "detected_answers": [detected], "answers": [text]}
        return json.dumps({"id": "", "context": CONTEXT, "context_tokens": [], "qas": [asked]})

    def test_spans_include_their_last_character_and_are_spelt_as_the_context_does(self):
        (example,) = read("mrqa", f"{self.HEADER}\n{self.row([18, 20], [18, 20])}\n")
        assert example == ImportedRow(
            "m1", "Who?", CONTEXT, [("Ben", 18), ("Ben", 18)], {"source": "Lamps"}, problems=[]
        )

    def test_a_span_with_another_text_keeps_its_answer_so_that_it_is_seen(self):
        (example,) = read("mrqa", self.row([0, 2]))
        assert example.golds == [("ben", 0)]

    @pytest.mark.parametrize(
        ("broken", "unreadable", "problem"),
        [
            ("{}", "no_questions", ""),
            ('{"qas": [7]}', "not_an_object", ""),
            ("[]", "not_an_object", ""),
            ("{", "not_json", ""),
            (
                '{"qas": [{"qid": 1, "question": "Who?", "detected_answers": [7]}]}',
                "",
                "gold_not_text",
            ),
            (
                '{"qas": [{"detected_answers": [{"text": "a", "char_spans": [[0]]}]}]}',
                "",
                "start_not_whole",
            ),
            ('{"qas": [{"detected_answers": [{"text": "a"}]}]}', "", "start_not_whole"),
            ('{"qas": [{"detected_answers": 7}]}', "", "number_as_text"),
        ],
    )
    def test_what_is_broken_is_named_and_leaves_its_neighbours(
        self, broken: str, unreadable: str, problem: str
    ):
        rows = read("mrqa", f"{self.HEADER}\n{broken}\n{self.row([18, 20])}")
        assert [row.unreadable for row in rows] == [unreadable, ""]
        if problem:
            assert [reason for reason, _ in rows[0].problems] == [problem]
        assert rows[1] == read("mrqa", f"{self.HEADER}\n{self.row([18, 20])}")[0]

    def test_questions_whose_answers_were_not_detected(self):
        asked = [
            {"qid": "1", "question": "Who?", "answers": ["Ben"]},
            {"qid": "2", "question": "Who?"},
            {"qid": "3", "question": "Who?", "detected_answers": [], "answers": ["Ben"]},
            {"qid": "4", "question": "Who?", "detected_answers": [], "answers": []},
            {"qid": "5", "question": "Who?", "detected_answers": []},
        ]
        rows = read("mrqa", json.dumps({"qas": asked, "context": CONTEXT}))
        assert [row.golds for row in rows] == [[("Ben", None)], None, [("Ben", None)], [], []]


class TestJsonLines:
    def test_names_and_others(self):
        line = json.dumps(
            {
                "key": 7,
                "ask": "Who?",
                "text": "a",
                "golds": {"text": ["a"], "answer_start": [0]},
                "page": 3,
            }
        )
        (example,) = read(
            "jsonl", f"{line}\n\n", id="key", question="ask", context="text", answers="golds"
        )
        assert example == ImportedRow("7", "Who?", "a", [("a", 0)], {"page": 3}, problems=[])

    def test_a_start_that_belongs_to_no_answer_goes_along(self):
        """In the output of annotate, for example, it is the start of the model's answer."""
        row = {
            "question": "Who?",
            "context": "a b",
            "answers": {"text": ["a"], "answer_start": [0]},
            "answer_start": 2,
        }
        (made, plain) = read("jsonl", f"{json.dumps(row)}\n{json.dumps(row | {'answers': 'b'})}")
        assert (made.golds, made.others) == ([("a", 0)], {"answer_start": 2})
        assert (plain.golds, plain.others) == ([("b", 2)], {})

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            ("Who?", "not_json"),
            ("[]", "not_an_object"),
            ('{"a": 1,}', "not_json"),
            ("[" * 100_000, "not_json"),
            ("1e9e", "not_json"),
        ],
    )
    def test_a_line_that_can_not_be_read_leaves_its_neighbours(self, broken: str, reason: str):
        good = json.dumps({"id": "a", "question": "Who?", "context": "a"})
        rows = read("jsonl", f"{good}\r\n{broken}\r\n\r\n{good}")
        assert [(row.unreadable, row.where, row.id) for row in rows] == [
            ("", "line 1", "a"),
            (reason, "line 2", None),
            ("", "line 4", "a"),
        ]

    def test_values_of_other_types(self):
        row = {
            "id": float("nan"),
            "question": 7,
            "context": ["a", "b"],
            "price": 1.50,
            "n": {"x": [2.5]},
        }
        (made,) = read("jsonl", json.dumps(row))
        assert (made.id, made.question, made.context, made.golds) == (None, "7", None, None)
        assert made.problems == [("number_as_text", 7), ("context_not_text", ["a", "b"])]
        assert made.others == {"price": 1.5, "n": {"x": [2.5]}}
        assert type(made.others["price"]) is float

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
    def test_encodings(self, encoding: str):
        content = json.dumps({"question": "é?", "context": "é"}, ensure_ascii=False).encode(
            encoding
        )
        assert [row.context for row in read("jsonl", content, encoding=encoding)] == ["é"]


class TestCsv:
    def test_quotes_line_breaks_and_a_byte_order_mark(self):
        content = (
            "\ufeffid,question,context,answers,answer_start,page\n"
            '1,"Who, then?","Ada\nlit ""it""",Ada,0,7\n'
        )
        (example,) = read("csv", content)
        assert example == ImportedRow(
            "1", "Who, then?", 'Ada\nlit "it"', [("Ada", 0)], {"page": "7"}, problems=[]
        )

    def test_an_empty_cell_is_an_unanswerable_question_and_json_is_read(self):
        rows = read(
            "tsv",
            "question\tcontext\tanswers\nWho?\ta\t\n"
            'Who?\ta\t"{""text"": [""a""], ""answer_start"": [0]}"\n',
        )
        assert [row.golds for row in rows] == [[], [("a", 0)]]
        assert rows[0].id is None

    @pytest.mark.parametrize("cell", ["nan", "NaN"])
    def test_nan_is_no_answer_unless_it_has_a_start(self, cell: str):
        content = f"question,context,answers,answer_start\nWho?,a nan,{cell},%s\n"
        for start, golds in (("", None), ("nan", None), ("2", [(cell, 2)])):
            (row,) = read("csv", content % start)
            assert (row.golds, row.problems) == (golds, [])
        (row,) = read("csv", f"question,context,answers\nWho?,a nan,{cell}\n")
        assert (row.golds, row.problems) == (None, [])
        (row,) = read("jsonl", '{"question": "Who?", "context": "a nan", "answers": NaN}')
        assert (row.golds, row.problems) == (None, [])

    def test_a_table_without_answers_says_nothing_of_them(self):
        (example,) = read("csv", "question,context\nWho?,a\n")
        assert example.golds is None

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                'question,context\nWho?,a\n"Who?,a\nb,c\n',
                "after line 2: .* a quoted cell is not closed",
            ),
            ('question,"context\n', "after line 0: .* a quoted cell is not closed"),
            (
                "question;context\nWho?;a\n",
                "its header is divided by ';', not by ',': --delimiter=';'",
            ),
            (
                "question\tcontext\nWho?\ta\n",
                "its header is divided by '\\\\t', not by ',': --delimiter='tab'",
            ),
            ("question,context,page,page\nWho?,a,1,2\n", "its header has 'page' more than once"),
            (
                f"Who?,{'a' * 99}",
                f"its header has neither 'question' nor 'context', but 'Who\\?', '{'a' * 80}': "
                "--question_column=NAME and --context_column=NAME name the columns",
            ),
        ],
    )
    def test_a_file_that_is_no_such_table_is_refused(self, content: str, message: str):
        with pytest.raises(FormatError, match=message):
            read("csv", content)

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            ("Who?", "cells_unequal"),
            ("Who?,a,b,c", "cells_unequal"),
            ('"Who"?,a,b', "malformed_line"),
        ],
    )
    def test_a_line_that_can_not_be_read_leaves_its_neighbours(self, broken: str, reason: str):
        good = "Who?,Ada lit it.,Ada"
        for end in ("\n", "\r\n", "\r"):
            rows = read("csv", end.join(["question,context,answers", good, broken, "", good]))
            assert [(row.unreadable, row.where) for row in rows] == [
                ("", "line 2"),
                (reason, "line 3"),
                ("", "line 5"),
            ]
            assert rows[0] == rows[2]

    def test_bytes_that_are_no_text_spoil_their_own_row_alone(self):
        content = "question,context\ncafé?,a\nWho?,b\n".encode("cp1252")
        assert [row_problem(row) for row in read("csv", content)] == ["question_not_utf8", ""]
        assert [row.question for row in read("csv", content, encoding="cp1252")] == [
            "café?",
            "Who?",
        ]

    def test_a_delimiter_that_was_asked_for(self):
        for kind in ("csv", "tsv"):
            (row,) = read(kind, "\ufeffquestion;context\nWho?;a\n", delimiter=";")
            assert (row.question, row.context) == ("Who?", "a")

    def test_a_long_cell(self):
        (example,) = read("csv", f"question,context\nWho?,{'a' * 300_000}\n")
        assert len(example.context) == 300_000


class TestParquet:
    def content(self, **columns: Any) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(
            pa.table({"question": ["Who?"] * 2, "context": [CONTEXT] * 2, **columns}), buffer
        )
        return buffer.getvalue()

    @pytest.mark.parametrize(
        "answers",
        [
            pa.array([[{"text": "Ada", "answer_start": 0}], []]),
            pa.array(['{"text": ["Ada"], "answer_start": [0]}', "[]"]),
            pa.array(["{'text': array(['Ada'], dtype=object), 'answer_start': array([0])}", "[]"]),
            pa.array([{"text": ["Ada"], "answer_start": [0]}, {"text": [], "answer_start": []}]),
        ],
    )
    def test_answers_of_any_shape(self, answers: pa.Array):
        assert [row.golds for row in read("parquet", self.content(answers=answers))] == [
            [("Ada", 0)],
            [],
        ]

    def test_other_columns_keep_their_types(self):
        columns = {
            "page": pa.array([1, None], pa.int16()),
            "at": pa.array([1, 2], pa.timestamp("ns")),
            "kind": pa.array(["a", None]).dictionary_encode(),
            "answer_start": pa.array([3, 4], pa.int8()),
            "tags": pa.array([[["a"], None], None]),
        }
        rows = read("parquet", self.content(answers=pa.array([["Ada"], None]), **columns))
        for name, column in columns.items():
            assert pa.concat_arrays([row.others[name] for row in rows]).equals(column)

    def test_text_that_is_no_utf8(self):
        bad = pa.array([b"\xff", b"Who?"]).view(pa.string())
        rows = read("parquet", self.content(id=bad, answers=bad))
        assert [row_problem(row) for row in rows] == ["id_not_utf8", ""]
        assert (rows[0].golds, rows[0].problems) == (None, [("answers_not_utf8", None)])

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"question,context\n"])
    def test_what_is_not_parquet_is_refused(self, content: bytes):
        with pytest.raises(FormatError, match="after row 0: "):
            read("parquet", content)


class TestRecognise:
    @pytest.mark.parametrize(
        ("path", "content", "kind"),
        [
            ("a.json", '{"version": "1", "data": []}', "squad"),
            ("a.json", '{\n"data": []}', "squad"),
            ("a.json", '[{"question": 1}]', "squad"),
            ("a.json", '\n{"question": "Who?", "context": "a"}\n{}', "jsonl"),
            ("a.json.gz", '{"header": {}}\n{"qas": []}', "mrqa"),
            ("a.jsonl", '{"context": "a", "qas": []}', "mrqa"),
            ("a.jsonl", '{"data": []}', "squad"),
            ("a.json", '{"version": "1", "data": {}}', "squad"),
            ("a.json", '{"ask": "Who?", "text": "a", "data": {}}', "jsonl"),
            ("a.jsonl", '[\n{"question": 1}]', "squad"),
            ("a.jsonl", "Who?", "jsonl"),
            ("a.jsonlines", "{}", "jsonl"),
            ("A.NDJSON", "{}", "jsonl"),
            ("a.TSV.bz2", "", "tsv"),
            ("a.csv", "PAR1", "parquet"),
            ("a.parquet", "", "parquet"),
        ],
    )
    def test_by_ending_and_content(self, path: str, content: str, kind: str):
        assert recognise(io.BytesIO(content.encode()), path, None, None) == (kind, "utf-8-sig")

    def test_what_was_asked_for_comes_first(self):
        assert recognise(io.BytesIO(b"{}"), "a.json", "squad", "cp1252") == ("squad", "cp1252")

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
    def test_byte_order_marks(self, encoding: str):
        content = '{"question": "é", "context": "a"}\n'.encode(encoding)
        assert recognise(io.BytesIO(content), "a.json", None, None) == ("jsonl", encoding)

    @pytest.mark.parametrize(
        ("path", "content", "message"),
        [
            (
                "a.data",
                b"",
                r"the ending says no format, give --format=squad\|mrqa\|jsonl\|csv\|tsv\|parquet",
            ),
            ("a.csv", b"\x1f\x8b\x08", "it is compressed: give it a name that ends in .gz"),
            (
                "a.csv",
                "question".encode("utf-16-le"),
                "it has NUL bytes, as UTF-16 does: --encoding=utf-16-le",
            ),
        ],
    )
    def test_what_can_not_be_known_is_refused(self, path: str, content: bytes, message: str):
        with pytest.raises(FormatError, match=message):
            recognise(io.BytesIO(content), path, None, None)


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
    + [
        {"text": text, "answer_start": start}
        for text in ("Ada", 1, [1], ["Ada"], [None])
        for start in (0, "b", [0], None)
    ]
)
QUESTION = ODD | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "qid", "question", "is_impossible"), ODD)
)
QUESTION |= st.fixed_dictionaries(
    {"id": ODD, "question": ODD, "answers": ODD | st.lists(ODD, max_size=2)}
)
DETECTED = st.lists(st.fixed_dictionaries({"text": ODD, "char_spans": ODD}), max_size=2)
QUESTION |= st.fixed_dictionaries({"qid": ODD, "question": ODD, "detected_answers": ODD | DETECTED})
PARAGRAPH = ODD | st.fixed_dictionaries(
    {"context": ODD, "qas": ODD | st.lists(QUESTION, max_size=2)}
)
ROW = ODD | st.fixed_dictionaries(
    dict.fromkeys(("id", "question", "context", "answers", "answer_start", "header"), ODD)
)


@given(st.lists(PARAGRAPH | ROW, max_size=3), ODD)
def test_odd_files_are_read_or_named(pieces: list[Any], title: Any):
    """Odd values anywhere give rows or a FormatError, and no other exception."""
    lines = "\n".join(json.dumps(piece) for piece in pieces)
    wrapped = json.dumps({"data": [{"title": title, "paragraphs": pieces}, title]})
    for kind, content in (("mrqa", lines), ("jsonl", lines), ("squad", wrapped), ("csv", lines)):
        with suppress(FormatError):
            read(kind, content)
