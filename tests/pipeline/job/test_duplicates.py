"""Duplicates within an audited data set, overlap with another, and refused folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.job.duplicates import audited_parts
from pipeline.job.options import Refused
from tests.pipeline.audits import Audit
from tests.runs import ada, examples, read_parts, run, write_input


def renamed(table: pa.Table, prefix: str) -> pa.Table:
    return table.set_column(
        0, "id", pa.array([f"{prefix}{each}" for each in table["id"].to_pylist()])
    )


@pytest.fixture(scope="module")
def other(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run an audit with a prefix and another name of ids.

    It has rows 3 and 4 of `examples`, the context of row 5 and the question of row 6.
    """
    folder = tmp_path_factory.mktemp("other")
    table = examples(7).slice(3)
    questions = table["question"].to_pylist()
    contexts = table["context"].to_pylist()
    questions[2] = "Another question?"
    contexts[3] = "Another context, by Ada the keeper."
    table = pa.table({"id": table["id"], "question": questions, "context": contexts})
    source = ada(renamed(pa.concat_tables([table, table.slice(0, 1)]), "other "), 0).rename_columns(
        {"id": "key"}
    )
    write_input(folder / "a.parquet", source)
    assert (
        audit(folder / "a.parquet", folder / "out", "--output_prefix=qa_", "--id_column=key") == 0
    )
    return folder / "out"


def found_in(output: Path) -> dict[str, Any]:
    return json.loads((output / "duplicates.json").read_text("utf-8"))


class TestWithin:
    def test_equal_pairs_with_equal_and_with_conflicting_golds(
        self, audit: Audit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        """They are in different files, row groups and chunks; a rejected row is not a duplicate."""
        first, second = examples(8), renamed(examples(8), "again ")
        write_input(tmp_path / "in" / "a.parquet", ada(first), row_group_size=3)
        again = ada(second, 1, 2).slice(0, 4)  # rows 1 and 2 with other golds
        answers = again["answers"].to_pylist()
        answers[3] = {"text": ["Ada"], "answer_start": [0]}  # and row 3 misaligned
        again = again.set_column(3, "answers", pa.array(answers))
        write_input(tmp_path / "in" / "b.parquet", again)
        assert audit(tmp_path / "in", tmp_path / "out", "--chunk_rows=2") == 0
        found = found_in(tmp_path / "out")
        assert found["repeated_pairs"] == 3
        assert found["rows_of_repeated_pairs"] == 6
        assert found["pairs_with_conflicting_golds"] == 2
        assert sorted(
            (entry["ids"], entry["conflicting_golds"]) for entry in found["repeated"]
        ) == [
            (["again row 0", "row 0"], False),
            (["again row 1", "row 1"], True),
            (["again row 2", "row 2"], True),
        ]
        assert (
            "3 question/context pairs occur more than once (6 rows), 2 of them"
            in capfd.readouterr().out
        )

    def test_golds_that_cover_the_same_tokens_are_no_conflict(self, audit: Audit, tmp_path: Path):
        """Nor are the same golds in another order, or with additional misaligned ones."""
        table = pa.concat_tables([examples(1)] * 4)
        begin = table["context"][0].as_py().index("keeper")
        golds = [
            [("keeper", begin), ("Ada", begin + 7)],
            [("Ada", begin + 7), ("keeper", begin)],
            [("keeper ", begin), (" Ada", begin + 6)],
            [("keeper", begin), ("Ada", 0), ("Ada", begin + 7)],
        ]
        answers = [
            {"text": [text for text, _ in each], "answer_start": [start for _, start in each]}
            for each in golds
        ]
        write_input(tmp_path / "a.parquet", table.append_column("answers", pa.array(answers)))
        assert audit(tmp_path / "a.parquet", tmp_path / "out") == 0
        found = found_in(tmp_path / "out")
        assert (found["rows_of_repeated_pairs"], found["pairs_with_conflicting_golds"]) == (4, 0)

    def test_answerable_here_and_unanswerable_there_is_a_conflict(
        self, audit: Audit, tmp_path: Path
    ):
        table = ada(pa.concat_tables([examples(1)] * 2))
        answers = [table["answers"][0].as_py(), {"text": [], "answer_start": []}]
        write_input(tmp_path / "a.parquet", table.set_column(3, "answers", pa.array(answers)))
        assert audit(tmp_path / "a.parquet", tmp_path / "out", "--null=on") == 0
        assert found_in(tmp_path / "out")["pairs_with_conflicting_golds"] == 1


class TestAgainst:
    def test_what_both_hold(
        self, audit: Audit, other: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(
            tmp_path / "a.parquet",
            ada(pa.concat_tables([examples(8), renamed(examples(5).slice(4), "x")])),
        )
        assert (
            audit(tmp_path / "a.parquet", tmp_path / "out", f"--against={other}", "--chunk_rows=4")
            == 0
        )
        found = found_in(tmp_path / "out")
        assert found["against"] == str(other)
        assert found["overlap"] == {
            "pair": {"shared": 2, "own_rows": 3, "other_rows": 3},
            "context": {"shared": 3, "own_rows": 4, "other_rows": 4},
            "question": {"shared": 3, "own_rows": 4, "other_rows": 4},
        }
        assert sorted(found["shared"], key=lambda entry: entry["ids"]) == [
            {"ids": ["row 3"], "other_ids": ["other row 3", "other row 3"]},
            {"ids": ["row 4", "xrow 4"], "other_ids": ["other row 4"]},
        ]
        assert found["repeated_pairs"] == 1  # its own; row 3 occurs twice in the other one
        assert f"2 pairs shared with {other} (3 rows)" in capfd.readouterr().out

    def test_nothing_in_common(self, audit: Audit, other: Path, tmp_path: Path):
        write_input(tmp_path / "a.parquet", ada(examples(3, first=100)))
        assert audit(tmp_path / "a.parquet", tmp_path / "out", f"--against={other}") == 0
        found = found_in(tmp_path / "out")
        assert [counts["shared"] for counts in found["overlap"].values()] == [0, 0, 0]
        assert found["shared"] == []

    def test_it_may_be_given_or_left_out_on_a_rerun(
        self, audit: Audit, other: Path, tmp_path: Path
    ):
        """It is not part of the run's identity, because no row depends on it."""
        write_input(tmp_path / "a.parquet", ada(examples(4)))
        assert audit(tmp_path / "a.parquet", tmp_path / "out") == 0
        rows = read_parts(tmp_path / "out")
        assert "overlap" not in found_in(tmp_path / "out")
        assert audit(tmp_path / "a.parquet", tmp_path / "out", f"--against={other}") == 0
        assert found_in(tmp_path / "out")["overlap"]["pair"]["shared"] == 1
        assert read_parts(tmp_path / "out").equals(rows)

    def test_the_audit_of_annotate_is_an_audit(
        self, audit: Audit, bert_folder: Path, tmp_path: Path
    ):
        write_input(tmp_path / "a.parquet", ada(examples(3)))
        arguments = (f"--input={tmp_path}/a.parquet", f"--model={bert_folder}", "--audit")
        assert run("annotate", *arguments, f"--output={tmp_path}/both") == 0
        assert (
            audit(tmp_path / "a.parquet", tmp_path / "out", f"--against={tmp_path}/both/audit") == 0
        )
        assert found_in(tmp_path / "out")["overlap"]["pair"] == {
            "shared": 3,
            "own_rows": 3,
            "other_rows": 3,
        }


class TestRefusals:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return write_input(tmp_path / "a.parquet", ada(examples(2)))

    def refused(
        self, audit: Audit, source: Path, against: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        output = source.parent / "out"
        assert audit(source, output, f"--against={against}") == 2
        message = capfd.readouterr().err
        assert f"refused: --against={against} is not the output of a" in message
        assert not output.exists()

    def test_a_folder_that_is_not_there_and_a_file(
        self, audit: Audit, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        self.refused(audit, source, tmp_path / "nowhere", capfd)
        self.refused(audit, source, source, capfd)

    def test_an_annotation(
        self,
        audit: Audit,
        bert_folder: Path,
        source: Path,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ):
        arguments = (
            f"--input={source}",
            f"--output={tmp_path}/annotated",
            f"--model={bert_folder}",
        )
        assert run("annotate", *arguments) == 0
        self.refused(audit, source, tmp_path / "annotated", capfd)

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"configuration": null', "null"])
    def test_a_run_of_something_else(
        self,
        audit: Audit,
        source: Path,
        tmp_path: Path,
        content: str,
        capfd: pytest.CaptureFixture[str],
    ):
        (tmp_path / "else").mkdir()
        (tmp_path / "else" / "run.json").write_text(content)
        (tmp_path / "else" / "manifest.json").write_text("{}")
        self.refused(audit, source, tmp_path / "else", capfd)

    @pytest.mark.parametrize("name", ["out", "out/audit"])
    def test_an_audit_that_the_run_would_remove(
        self,
        audit: Audit,
        source: Path,
        tmp_path: Path,
        name: str,
        capfd: pytest.CaptureFixture[str],
    ):
        against = tmp_path / name
        assert audit(source, against) == 0
        assert audit(source, tmp_path / "out", f"--against={against}", "--overwrite") == 2
        message = f"refused: --against={against} would be removed by this run, which writes"
        assert message in capfd.readouterr().err
        assert (against / "manifest.json").exists()

    def test_an_audit_that_has_not_finished(
        self, audit: Audit, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        """Its parts would be taken for the whole, and overlap would be missed silently."""
        assert audit(source, tmp_path / "half") == 0
        (tmp_path / "half" / "manifest.json").unlink()
        self.refused(audit, source, tmp_path / "half", capfd)


def test_parts_of_an_audit_and_the_names_of_their_columns(other: Path):
    (part,) = audited_parts(str(other), own=False)
    assert Path(part.path).parent == other / "parts"
    assert (part.own, part.id, part.prefix) == (False, "key", "qa_")
    (mine,) = audited_parts(str(other), own=True)
    assert mine.own


def test_no_audit_no_parts(tmp_path: Path):
    with pytest.raises(Refused, match="is not the output of a finished audit"):
        audited_parts(str(tmp_path), own=True)


def test_golds_in_one_unknown_token_are_in_conflict(
    audit: Audit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Letters of a script that the vocabulary lacks are one token up to a blank.

    All golds inside that token have the same loss, but they differ.
    """
    context, question = "นกร้องเพลงริมบึงยามเช้า", "นกร้องเพลงเมื่อไร"
    golds = ["ยามเช้า", "ริมบึง", "ริมบึง", "noon"]
    contexts = [context, context, context + " ", "It leaves at noon."]
    table = pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "question": [question, question, "เมื่อไร", "When does the ferry leave?"],
            "context": contexts,
            "answers": [
                {"text": [gold], "answer_start": [text.index(gold)]}
                for gold, text in zip(golds, contexts, strict=True)
            ],
        }
    )
    write_input(tmp_path / "a.parquet", table)
    for rows in (1, 2, 4):
        assert audit(tmp_path / "a.parquet", tmp_path / str(rows), f"--chunk_rows={rows}") == 0
        found = json.loads((tmp_path / str(rows) / "duplicates.json").read_text("utf-8"))
        assert (found["repeated_pairs"], found["pairs_with_conflicting_golds"]) == (1, 1)
        told = json.loads((tmp_path / str(rows) / "audit.json").read_text("utf-8"))["unknown_text"]
        assert (told["characters"], told["unknown_characters"]) == (
            sum(map(len, contexts)),
            3 * len(context),
        )
        printed = capfd.readouterr()
        assert (
            "78 % of the contexts' characters are in tokens that the tokenizer does not know\n"
            in printed.out
        )
        assert (
            printed.err.count(
                "WARNING 78.4 % of the contexts' characters are in unknown tokens: the tokenizer "
                "does not know"
            )
            == 1
        )
