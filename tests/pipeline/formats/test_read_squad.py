"""SQuAD JSON and lists of rows: keys in any order, broken pieces, and memory."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from pipeline.formats.imported_rows import FileLayout, FormatError, ImportedRow
from pipeline.formats.read_formats import READERS

CONTEXT = "Ada lit the lamp. Ben rang the bell."


def read(kind: str, content: str | bytes, **layout: str) -> list[ImportedRow]:
    data = content.encode() if isinstance(content, str) else content
    return list(READERS[kind](io.BytesIO(data), FileLayout(**layout)))


def squad(*paragraphs: dict[str, Any], title: str = "Lamps") -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": title, "paragraphs": list(paragraphs)}]}


def asked(*answers: tuple[str, int], name: str = "q1", **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "question": "Who?",
        "answers": [{"text": t, "answer_start": s} for t, s in answers],
        **more,
    }


class TestSquad:
    def test_both_versions(self):
        impossible = asked(
            name="q2", is_impossible=True, plausible_answers=[{"text": "Ben", "answer_start": 18}]
        )
        first, second = read(
            "squad",
            json.dumps(
                squad({"context": CONTEXT, "qas": [asked(("Ada", 0), ("Ada", 0)), impossible]})
            ),
        )
        assert first == ImportedRow(
            "q1", "Who?", CONTEXT, [("Ada", 0), ("Ada", 0)], {"title": "Lamps"}, problems=[]
        )
        others = {
            "title": "Lamps",
            "is_impossible": True,
            "plausible_answers": [{"text": "Ben", "answer_start": 18}],
        }
        assert second == ImportedRow("q2", "Who?", CONTEXT, [], others, problems=[])

    def test_a_title_is_that_of_its_own_article(self):
        content = squad({"context": CONTEXT, "qas": [asked()]})
        content["data"].append({"paragraphs": [{"context": "b", "qas": [asked(name="q2")]}]})
        assert [example.others["title"] for example in read("squad", json.dumps(content))] == [
            "Lamps",
            None,
        ]

    def test_a_question_of_which_no_answer_is_told(self):
        """Test sets have no answers. A missing start is not invented here."""
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
            ("{", "paragraph 0: not JSON"),
            ("[1, 2", "paragraph 0: not JSON"),
            ("", "paragraph 0: not JSON"),
            ('{"data": [],}', "paragraph 0: not JSON"),
            (
                '{"data": []} {"data": []}',
                r"trailing garbage \(more than one object: --format=jsonl\)",
            ),
            ("7", "it is neither an object with `data` nor a list, but begins with number"),
            ("{}", r"it has no articles \(`data\[\]`\) and is not a list"),
            ('{"info": {"a": 1}}', "it has no article"),
            ('{"data": [{"id": nan}]}', "paragraph 0: not JSON: lexical error"),
            ('{"data": [{"id": 1e99999999999999999999}]}', "a number is too large"),
        ],
    )
    def test_a_file_that_is_not_json_is_refused(self, content: str, message: str):
        with pytest.raises(FormatError, match=message):
            read("squad", content)

    @pytest.mark.parametrize(
        ("data", "found"), [({"title": "Lamps"}, "an object"), ({}, "an object"), (7, "number")]
    )
    def test_data_that_is_no_list_is_refused(self, data: Any, found: str):
        with pytest.raises(FormatError, match=f"its `data` is {found}, where SQuAD has a list of "):
            read("squad", json.dumps({"version": "1", "data": data}))

    @pytest.mark.parametrize(
        ("broken", "reason", "where"),
        [
            ("Who?", "not_an_object", "article 0"),
            ([1], "not_an_object", "article 0"),
            ({"title": "Lamps"}, "no_paragraphs", "article 0"),
            ({"paragraphs": {"context": "a"}}, "no_paragraphs", "article 0"),
            ({"paragraphs": [7]}, "not_an_object", "paragraph 0"),
            ({"paragraphs": [[{}]]}, "not_an_object", "paragraph 0"),
            ({"paragraphs": [{"qas": {}}]}, "no_questions", "paragraph 0"),
            ({"paragraphs": [{"qas": [{}, "Who?"]}]}, "not_an_object", "paragraph 0, question 1"),
        ],
    )
    def test_a_piece_that_can_not_be_read_leaves_its_neighbours(
        self, broken: Any, reason: str, where: str
    ):
        content = squad({"context": CONTEXT, "qas": [asked(("Ada", 0))]})
        content["data"].insert(0, broken)
        rows = read("squad", json.dumps(content))
        assert [(row.unreadable, row.where) for row in rows if row.unreadable] == [(reason, where)]
        assert (
            rows[-1]
            == read("squad", json.dumps(squad({"context": CONTEXT, "qas": [asked(("Ada", 0))]})))[0]
        )

    def test_what_is_missing_is_null(self):
        (row,) = read("squad", json.dumps(squad({"qas": [{"question": ["Who?"]}]})))
        assert (row.id, row.question, row.context, row.golds) == (None, None, None, None)
        assert row.problems == [("question_not_text", ["Who?"])]

    @pytest.mark.parametrize("block", [1, 7, 64, 2**16])
    def test_keys_in_any_order(self, block: int, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("pipeline.formats.read_squad._BLOCK", block)
        qa = {
            "question_type": "who",
            "answers": [{"answer_start": 0, "text": "Ada"}],
            "question": "Who?",
            "id": "q1",
        }
        article = {
            "lang": "en",
            "paragraphs": [{"qas": [qa], "document_id": 3, "context": CONTEXT}],
            "title": "Lamps",
        }
        last = {
            "data": [article, {"paragraphs": [{"context": "b", "qas": [asked(name="q2")]}]}],
            "version": "1",
        }
        rows = read("squad", json.dumps(last))
        others = {"question_type": "who", "document_id": 3, "lang": "en", "title": "Lamps"}
        assert rows[0] == ImportedRow("q1", "Who?", CONTEXT, [("Ada", 0)], others, problems=[])
        assert rows[1].others == {"title": None}

    def test_keys_of_one_name_at_several_levels_all_go_along(self):
        qa = {"id": "q", "question": "Who?", "answers": [], "url": 1, "context": "x"}
        paragraph = {"context": CONTEXT, "qas": [qa], "id": 2, "url": 3}
        (row,) = read(
            "squad", json.dumps({"data": [{"paragraphs": [paragraph], "id": 4, "url": 5.5}]})
        )
        assert row.others == {
            "url": 1,
            "question_context": "x",
            "paragraph_id": 2,
            "paragraph_url": 3,
            "article_id": 4,
            "article_url": 5.5,
            "title": None,
        }

    @pytest.mark.parametrize(
        "wrap", [lambda rows: rows, lambda rows: {"version": "1", "data": rows}]
    )
    def test_rows_in_place_of_articles(self, wrap: Any):
        flat = {
            "id": 1,
            "question": "Who?",
            "context": CONTEXT,
            "answers": {"text": ["Ada"], "answer_start": [0]},
            "page": 1.5,
        }
        (row, second) = read(
            "squad",
            json.dumps(wrap([flat, squad({"context": CONTEXT, "qas": [asked()]})["data"][0]])),
        )
        assert row == ImportedRow("1", "Who?", CONTEXT, [("Ada", 0)], {"page": 1.5}, problems=[])
        assert second.id == "q1"

    def test_paragraphs_beyond_memory(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("pipeline.formats.read_squad._HELD_BYTES", 1)
        paragraphs = [{"context": f"{CONTEXT} {n}", "qas": [asked(name=str(n))]} for n in range(5)]
        content = {
            "data": [
                {"paragraphs": paragraphs[:3], "title": "a"},
                {"paragraphs": paragraphs[3:], "title": "b"},
            ]
        }
        rows = read("squad", json.dumps(content))
        assert [(row.id, row.others["title"], row.context[-1]) for row in rows] == [
            (str(n), "a" if n < 3 else "b", str(n)) for n in range(5)
        ]

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
    def test_encodings(self, encoding: str):
        content = json.dumps(
            squad({"context": "é 🌊", "qas": [asked()]}), ensure_ascii=False
        ).encode(encoding)
        assert [row.context for row in read("squad", content, encoding=encoding)] == ["é 🌊"]

    def test_bytes_that_are_no_text_spoil_their_own_row_alone(self):
        content = json.dumps(
            squad({"context": "a", "qas": [asked()]}, {"context": "b", "qas": [asked()]})
        ).encode()
        rows = read("squad", content.replace(b'"a"', b'"\xe9"'))
        assert [row.context for row in rows] == ["\ud800", "b"]

    def test_a_byte_order_mark(self):
        content = json.dumps(squad({"context": CONTEXT, "qas": [asked()]})).encode("utf-8-sig")
        assert [example.id for example in read("squad", content)] == ["q1"]
        assert [
            example.id
            for example in read("jsonl", json.dumps(asked(context=CONTEXT)).encode("utf-8-sig"))
        ] == ["q1"]

    @pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 11, 13, 64, 2**16])
    def test_half_a_surrogate_pair_is_kept_to_be_seen(
        self, block: int, monkeypatch: pytest.MonkeyPatch
    ):
        """The parser would turn it into a question mark.

        Whole pairs and escaped backslashes stay as they are wherever blocks end.
        """
        monkeypatch.setattr("pipeline.formats.read_squad._BLOCK", block)
        texts = [
            "🌊\ud83ca\udf0ab",
            "\\ud800 \\\\ud800",
            '\\\ud800"',
            "\ud83c\ud83c\udf0a🌊🌊",
            "é\n\\",
        ]
        content = json.dumps(squad(*[{"context": text, "qas": [asked()]} for text in texts]))
        halves = [
            re.sub("[\ud800-\udfff]", "\ud800", json.loads(json.dumps(text))) for text in texts
        ]
        assert [example.context for example in read("squad", content)] == halves

    def test_rows_come_while_most_of_the_file_is_unread(self):
        paragraph = {"context": CONTEXT * 50, "qas": [asked(("Ada", 0))]}
        article = squad(*[paragraph] * 10)["data"][0]
        file = io.BytesIO(json.dumps({"data": [article] * 100}).encode())
        rows = READERS["squad"](file, FileLayout())
        assert [next(rows).id for _ in range(3)] == ["q1"] * 3
        assert file.tell() < len(file.getvalue()) / 10


@pytest.mark.parametrize("block", [1, 2, 3, 5, 11, 2**16])
def test_numbers_that_python_writes_and_json_lacks(block: int, monkeypatch: pytest.MonkeyPatch):
    """NaN and Infinity concern their gold alone, and in text they remain text."""
    monkeypatch.setattr("pipeline.formats.read_squad._BLOCK", block)
    context = 'Read ": NaN," \\ and [Infinity] at noon. NaN'
    starts = [float("nan"), float("inf"), float("-inf"), context.index("noon")]
    golds = [{"text": "noon", "answer_start": start} for start in starts]
    questions = [
        {"id": str(k), "question": "NaN\\", "answers": [g], "x": float("nan")}
        for k, g in enumerate(golds)
    ]
    article = {"title": float("nan"), "paragraphs": [{"context": context, "qas": questions}]}
    file = io.BytesIO(json.dumps({"data": [article]}).encode())
    rows = list(READERS["squad"](file, FileLayout()))
    assert [row.context for row in rows] == [context] * 4
    assert [row.question for row in rows] == ["NaN\\"] * 4
    assert rows[0].golds == [("noon", None)]
    assert rows[3].golds == [("noon", starts[3])]
    for row in rows[1:3]:
        assert [reason for reason, _ in row.problems] == ["start_not_whole"]
