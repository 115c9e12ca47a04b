"""CorrectGolds: corrected golds in a chunk, and in a whole audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.runs import ada, examples, read_parts, read_rejections, run, write_input
from tests.transforms.fakes import asked, make_chunk
from tests.transforms.test_measure_loss import gold, with_answers
from tests.transforms.test_relabel import filled
from transforms.correct_golds import correct_golds
from transforms.records import Correction


def corrected(
    table: pa.Table, corrections: dict[str, Correction]
) -> tuple[list[Any], tuple[str, ...]]:
    chunk = correct_golds(make_chunk(table), corrections, "id", "context", "answers")
    assert chunk.table.schema == table.schema
    assert chunk.table.drop_columns("answers").equals(table.drop_columns("answers"))
    return chunk.table["answers"].to_pylist(), chunk.corrected


def test_golds_are_replaced_by_id():
    table = with_answers(
        asked("a b", "a b", "a b", "a b a"), gold("a", 0), gold("a", 0), None, gold("b", 2)
    )
    corrections: dict[str, Correction] = {
        "row 1": ((None, 2, 3), (None, 0, 1)),
        "row 2": (),
        "row 3": (("b a", None, None),),
        "elsewhere": (),
    }
    assert corrected(table, corrections) == (
        [
            gold("a", 0),
            {"text": ["b", "a"], "answer_start": [2, 0]},
            {"text": [], "answer_start": []},
            gold("b a", 2),
        ],
        ("row 1", "row 2", "row 3"),
    )


def test_a_text_that_stands_twice_or_nowhere_has_no_start():
    table = with_answers(asked("a b a", "a b a"), gold("b", 2), gold("b", 2))
    chunk = correct_golds(
        make_chunk(table),
        {"row 0": (("a", None, None),), "row 1": (("c", None, None),)},
        "id",
        "context",
        "answers",
    )
    assert [answer["answer_start"] for answer in chunk.table["answers"].to_pylist()] == [
        [None],
        [None],
    ]
    assert chunk.unplaced == {
        0: (
            "gold_ambiguous",
            "the corrected text 'a' occurs in the context more than once, and the correction "
            "gives no start",
        ),
        1: ("gold_absent", "the corrected text 'c' does not occur in the context"),
    }


def test_a_span_keeps_the_judged_text_if_the_context_has_changed():
    contexts = "It is Ada.", "It was Ada.", "It is\r\nAda.", "It is A"
    table = with_answers(asked(*contexts), *[gold("It", 0)] * 4)
    judged: dict[str, Correction] = {f"row {row}": (("Ada", 6, 9),) for row in (0, 1, 3)}
    found, _ = corrected(table, {**judged, "row 2": (("is\nAda", 3, 10),)})
    # Those of rows 1 and 3 are at no such place: misaligned, and out of range.
    assert found == [gold("Ada", 6), gold("Ada", 6), gold("is\r\nAda", 3), gold("Ada", 6)]


def test_a_span_of_unknown_text_beyond_the_context_is_out_of_range():
    table = with_answers(asked("a b", "a b", "a b"), *[gold("a", 0)] * 3)
    spans: dict[str, Correction] = {f"row {row}": ((None, 2, 2 + row),) for row in (1, 2)}
    spans["row 0"] = ((None, 7, 9),)
    chunk = correct_golds(make_chunk(table), spans, "id", "context", "answers")
    assert chunk.table["answers"].to_pylist()[1] == gold("b", 2)
    assert chunk.unplaced == {
        0: ("gold_out_of_range", "corrected gold at [7, 9) of a context of 3 characters"),
        2: ("gold_out_of_range", "corrected gold at [2, 4) of a context of 3 characters"),
    }


def test_a_text_that_stands_only_inside_a_word_has_no_start():
    table = with_answers(asked("Otto often mends nets."), gold("nets", 17))
    chunk = correct_golds(
        make_chunk(table), {"row 0": (("ten", None, None),)}, "id", "context", "answers"
    )
    message = (
        "the corrected text 'ten' occurs only inside longer words of the context, and the "
        "correction gives no start"
    )
    assert chunk.unplaced == {0: ("gold_inside_word", message)}


def test_nothing_to_correct_is_the_same_chunk():
    chunk = make_chunk(with_answers(asked("a b"), gold("a", 0)))
    assert correct_golds(chunk, {"row 7": ()}, "id", "context", "answers") is chunk


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string()])
def test_types_are_kept(kind: pa.DataType):
    answers = pa.struct([("answer_start", pa.list_(pa.int64())), ("text", pa.large_list(kind))])
    table = asked("a b").append_column("answers", pa.array([gold("a", 0)], answers))
    assert corrected(table, {"row 0": ((None, 2, 3),)})[0] == [{"answer_start": [2], "text": ["b"]}]


def test_a_list_of_structs_stays_one():
    item = pa.struct([("text", pa.string()), ("answer_start", pa.int64()), ("votes", pa.int8())])
    given = [[{"text": "a", "answer_start": 0, "votes": 2}]] * 3
    table = asked("a b", "a b", "a b").append_column("answers", pa.array(given, pa.list_(item)))
    found, _ = corrected(table, {"row 0": ((None, 2, 3), ("a", 0, None)), "row 2": ()})
    golds = [("b", 2), ("a", 0)]
    assert found == [
        [{"text": text, "answer_start": start, "votes": None} for text, start in golds],
        given[1],
        [],
    ]


@pytest.fixture
def audited(bert_folder: Path, tmp_path: Path) -> Path:
    write_input(tmp_path / "a.parquet", ada(examples(12)), row_group_size=5)
    assert (
        run(
            "audit",
            f"--input={tmp_path}/a.parquet",
            f"--output={tmp_path}/first",
            f"--model={bert_folder}",
        )
        == 0
    )
    return tmp_path


def again(
    folder: Path, bert_folder: Path, corrections: Path, output: str = "second", *options: str
) -> int:
    arguments = (
        f"--input={folder}/a.parquet",
        f"--output={folder}/{output}",
        f"--model={bert_folder}",
        *options,
    )
    return run("audit", *arguments, f"--corrections={corrections}", "--chunk_rows=3")


def test_from_an_audit_through_a_spreadsheet_into_an_audit(audited: Path, bert_folder: Path):
    """The untrained checkpoint's answers become the golds: their loss is not suspicious then."""
    content = (audited / "first" / "relabel.csv").read_bytes()
    decided = {f"row_{row}": {"decision": "prediction"} for row in range(5)}
    decided["row_5"] = {
        "decision": "other",
        "corrected_text": "the",
    }  # occurs more than once
    (audited / "judged.csv").write_bytes(filled(content, **decided))
    assert again(audited, bert_folder, audited / "judged.csv") == 0
    before, after = (read_parts(audited / name).to_pylist() for name in ("first", "second"))
    for row in range(5):
        assert after[row]["answers"]["text"] == [before[row]["prediction"]]
        assert (after[row]["exact_match"], after[row]["label_error"]) == (1.0, 0.0)
    assert after[5]["reason"] == "gold_ambiguous"
    (rejection,) = read_rejections(audited / "second")
    assert (rejection["id"], rejection["reason"]) == ("row 5", "gold_ambiguous")
    assert rejection["message"].startswith(
        "the corrected text 'the' occurs in the context more than once"
    )
    for row in range(6, 12):
        assert after[row]["answers"] == before[row]["answers"]
        assert after[row]["nll"] == pytest.approx(before[row]["nll"], rel=1e-4)
    audit = json.loads((audited / "second" / "audit.json").read_text("utf-8"))
    assert (
        audit["corrections"]["rows_corrected"]
        == audit["corrections"]["matched"]
        == audit["corrections"]["given"]
        == 6
    )
    listed = {entry["id"] for entry in audit["suspected_label_errors"]}
    assert listed == {f"row {row}" for row in range(6, 12)}


def test_a_decision_for_a_passage_that_has_changed_since_is_rejected(
    audited: Path, bert_folder: Path
):
    content = (audited / "first" / "relabel.csv").read_bytes()
    decided = {f"row_{row}": {"decision": "prediction"} for row in range(3)}
    judged = audited / "judged.csv"
    judged.write_bytes(filled(content, **decided))
    table = ada(examples(12))
    contexts = table["context"].to_pylist()
    changed = [contexts[0][:1], *(f"Lo, {text}" for text in contexts[1:])]
    write_input(audited / "a.parquet", table.set_column(2, "context", pa.array(changed)))
    assert again(audited, bert_folder, judged, "second", "--max_failed_fraction=1") == 0
    reasons = [row["reason"] for row in read_parts(audited / "second").to_pylist()]
    assert reasons[:3] == ["gold_out_of_range", "gold_misaligned", "gold_misaligned"]


def test_corrections_of_no_row_are_told(
    audited: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]
):
    """A rerun reads the corrections of finished chunks from their receipts."""
    judged = audited / "judged.csv"
    judged.write_text(
        "id,decision\nrow 1,unanswerable\nrow 4,unanswerable\nrow 99,unanswerable\n"
        "ROW 2,unanswerable\nrow 3,gold\n"
    )
    for _ in range(2):
        assert again(audited, bert_folder, judged) == 0
        printed = capfd.readouterr().out
        assert "2 of 4 corrections matched, 2 rows corrected\n" in printed
        assert "2 corrections match no row: 'ROW 2', 'row 99'\n" in printed
        for name in ("audit.json", "manifest.json"):
            told = json.loads((audited / "second" / name).read_text("utf-8"))["corrections"]
            assert told.pop("file")
            assert told == {
                "given": 4,
                "matched": 2,
                "rows_corrected": 2,
                "ids_of_no_row": ["ROW 2", "row 99"],
            }
    assert again(audited, bert_folder, judged, "part", "--limit=3") == 0
    assert "3 corrections match no row: 'ROW 2', 'row 4', 'row 99'\n" in capfd.readouterr().out


def test_corrections_are_part_of_what_a_run_is(
    audited: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]
):
    judged = audited / "judged.csv"
    judged.write_text("id,decision\nrow 1,unanswerable\n")
    assert again(audited, bert_folder, judged) == 0
    assert again(audited, bert_folder, judged) == 0
    judged.write_text("id,decision\nrow 2,unanswerable\n")
    assert again(audited, bert_folder, judged) == 2
    assert "has another run: corrections was" in capfd.readouterr().err


def test_refusals(audited: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]):
    judged = audited / "judged.csv"
    judged.write_text("id,decision\nrow 1,perhaps\n")
    assert again(audited, bert_folder, judged) == 2
    assert f"refused: --corrections={judged}: line 2: decision 'perhaps'" in capfd.readouterr().err
    inside = audited / "first" / "relabel.csv"
    written = inside.read_bytes()
    (audited / "link").symlink_to(audited / "first")
    for path in (inside, audited / "link" / "relabel.csv"):
        assert again(audited, bert_folder, path, "first", "--overwrite") == 2
        assert f"refused: --corrections={path} is a file of --output=" in capfd.readouterr().err
    assert inside.read_bytes() == written
    assert again(audited, bert_folder, audited / "nowhere.csv") == 2
    assert "--corrections=" in capfd.readouterr().err
    judged.write_text("id,decision\n")
    arguments = (
        f"--input={audited}/a.parquet",
        f"--output={audited}/both",
        f"--model={bert_folder}",
        "--audit",
    )
    assert run("annotate", *arguments, f"--corrections={judged}") == 2
    assert "annotate --audit would write them" in capfd.readouterr().err
