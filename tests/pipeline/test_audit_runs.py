"""Audits with annotate, resumed, in processes, in other chunks, refused, of other inputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.audit.columns import AUDIT_SCHEMA
from model.audit.distributions import RELATIVE_ACCURACY
from model.reading.columns import ANSWER_SCHEMA
from tests.figures import same_figures
from tests.pipeline.audits import ANSWERS, OPTIONS, ROWS, Audit, gold_examples, report
from tests.runs import (
    examples,
    identities,
    part_files,
    read_manifest,
    read_parts,
    read_rejections,
    write_input,
)


def same_rows(found: pa.Table, expected: pa.Table) -> None:
    """Assert equal schemas, equal values in columns without floats, and floats within 1e-6."""
    assert found.schema == expected.schema
    for name in expected.column_names:
        if pa.types.is_floating(expected.schema.field(name).type):
            assert found[name].is_null().equals(expected[name].is_null()), name
            one, other = (
                np.array(table[name].drop_null().to_pylist()) for table in (found, expected)
            )
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6, err_msg=name)
        elif name == "n_best":
            assert [[c["text"] for c in row or []] for row in found[name].to_pylist()] == [
                [c["text"] for c in row or []] for row in expected[name].to_pylist()
            ]
        else:
            assert found[name].to_pylist() == expected[name].to_pylist(), name


class TestAnnotateWithAudit:
    @pytest.fixture(scope="class")
    def both(
        self, gold: Path, audit: Audit, null: str, tmp_path_factory: pytest.TempPathFactory
    ) -> Path:
        output = tmp_path_factory.mktemp("both") / "out"
        assert audit(gold, output, "--audit", f"--null={null}", *OPTIONS, stage="annotate") == 0
        return output

    def test_the_audit_is_the_one_that_runs_apart(self, both: Path, finished: Path):
        same_rows(read_parts(both / "audit"), read_parts(finished))
        assert [path.name for path in part_files(both / "audit")] == [
            path.name for path in part_files(finished)
        ]
        assert read_rejections(both / "audit") == read_rejections(finished)
        same_figures(report(both / "audit"), report(finished), sums=1e-6)
        assert json.loads((both / "audit" / "run.json").read_text()) == json.loads(
            (finished / "run.json").read_text()
        )
        assert (both / "audit" / "duplicates.json").read_text() == (
            finished / "duplicates.json"
        ).read_text()

    def test_the_annotation_is_the_one_that_runs_apart(
        self, gold: Path, audit: Audit, null: str, both: Path, tmp_path: Path
    ):
        options = [option for option in OPTIONS if not option.startswith(("--worst", "--slice_by"))]
        assert audit(gold, tmp_path / "alone", f"--null={null}", *options, stage="annotate") == 0
        same_rows(read_parts(both), read_parts(tmp_path / "alone"))
        assert read_parts(both).column_names[-len(ANSWER_SCHEMA) :] == ANSWER_SCHEMA.names
        assert read_rejections(both) == read_rejections(tmp_path / "alone")
        assert json.loads((both / "run.json").read_text()) == json.loads(
            (tmp_path / "alone" / "run.json").read_text()
        )
        self.same_manifest(both, tmp_path / "alone")

    def test_so_are_the_figures_of_the_manifest(self, both: Path, finished: Path):
        self.same_manifest(both / "audit", finished)

    def same_manifest(self, one: Path, other: Path) -> None:
        found, expected = read_manifest(one), read_manifest(other)
        for manifest in (found, expected):
            manifest.pop("steps")  # times
        assert found == expected

    def test_a_run_of_both_goes_on_with_what_one_of_them_has_done(
        self, gold: Path, audit: Audit, output: Path
    ):
        """A chunk is done if both have its part: annotate's parts exist, but not the audit's."""
        arguments = ("--audit", *OPTIONS)
        assert audit(gold, output, *arguments, stage="annotate") == 0
        expected, figures = read_parts(output / "audit"), report(output / "audit")
        shutil.rmtree(output / "audit" / "parts")
        assert audit(gold, output, *arguments, stage="annotate") == 0
        same_rows(read_parts(output / "audit"), expected)
        same_figures(report(output / "audit"), figures)
        assert read_manifest(output)["rows"]["planned"] == ROWS


class TestTheSameFigures:
    def test_a_rerun_skips_what_is_committed(
        self, gold: Path, audit: Audit, output: Path, null: str, finished: Path
    ):
        shutil.copytree(finished, output)
        before, figures = identities(output), report(output)
        assert audit(gold, output, f"--null={null}", *OPTIONS) == 0
        assert identities(output) == before
        assert report(output) == figures  # receipts hold all that is merged
        assert read_manifest(output)["state"] == "complete"

    def test_a_resumed_run_has_the_figures_of_an_uninterrupted_one(
        self, gold: Path, audit: Audit, output: Path, null: str, finished: Path
    ):
        shutil.copytree(finished, output)
        kept = identities(output)
        for path in part_files(output)[1::2]:
            path.unlink()
            kept.pop(path.name)
        for name in ("manifest.json", "audit.json", "duplicates.json"):
            (output / name).unlink()
        assert audit(gold, output, f"--null={null}", *OPTIONS) == 0
        assert kept.items() <= identities(output).items()
        same_rows(read_parts(output), read_parts(finished))
        same_figures(report(output), report(finished))
        assert read_manifest(output)["content"] == read_manifest(finished)["content"]
        assert (output / "duplicates.json").read_text() == (
            finished / "duplicates.json"
        ).read_text()

    @pytest.mark.parametrize("null", ["on"], indirect=True)  # off: tests/test_engines.py
    def test_two_processes_have_the_figures_of_one(
        self, gold: Path, audit: Audit, output: Path, null: str, finished: Path
    ):
        """Batches depend only on the chunk, and a tiny network rounds alike with any threads."""
        ways = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
        assert audit(gold, output, f"--null={null}", *OPTIONS, *ways) == 0
        same_rows(read_parts(output), read_parts(finished))
        same_figures(report(output), report(finished))
        assert read_manifest(output)["content"] == read_manifest(finished)["content"]

    def test_other_chunks_have_the_same_figures(
        self, gold: Path, audit: Audit, output: Path, finished: Path, null: str
    ):
        """Other batches round differently: sums agree within 1e-5; quantiles may change bins."""
        options = [option for option in OPTIONS if not option.startswith("--chunk_rows")]
        assert audit(gold, output, f"--null={null}", "--chunk_rows=1000", *options) == 0
        assert len(part_files(output)) == 4  # one per row group
        found, expected = report(output), report(finished)
        assert found["rows"] == expected["rows"]
        assert found["reasons"] == expected["reasons"]
        assert found["fine_print"] == expected["fine_print"]
        pairs = [(found["all"], expected["all"])]
        for name, values in expected["slices"].items():
            assert found["slices"][name].keys() == values.keys()
            pairs += [(found["slices"][name][value], part) for value, part in values.items()]
        for one, other in pairs:
            assert one["rows"] == other["rows"]
            assert one["exact_match"] == other["exact_match"]
            assert one["calibration"]["count"] == other["calibration"]["count"]
            for name, loss in other["losses"].items():
                assert one["losses"][name]["count"] == loss["count"]
                if loss["count"]:
                    for figure in ("mean", "min", "max"):
                        assert one["losses"][name][figure] == pytest.approx(
                            loss[figure], rel=1e-5, abs=1e-5
                        )
                    for q in ("p50", "p90", "p95", "p99"):
                        assert one["losses"][name][q] == pytest.approx(
                            loss[q], rel=2.1 * RELATIVE_ACCURACY
                        )
        assert [example["id"] for example in found["highest_loss"]] == [
            example["id"] for example in expected["highest_loss"]
        ]

    def test_one_row_per_chunk_has_no_more_highest_losses_than_one_chunk(
        self, audit: Audit, tmp_path: Path
    ):
        source = write_input(tmp_path / "a.parquet", gold_examples(11))
        for rows in (1, 100):
            assert audit(source, tmp_path / str(rows), "--worst=2", f"--chunk_rows={rows}") == 0
        one, other = (report(tmp_path / rows)["highest_loss"] for rows in ("1", "100"))
        assert [example["id"] for example in one] == [example["id"] for example in other]
        assert len(one) == 2


class TestRefusals:
    def refused(self, code: int, output: Path, capfd: pytest.CaptureFixture[str]) -> str:
        assert code == 2
        assert not output.exists()
        return capfd.readouterr().err

    def test_no_answers_column(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", examples(3))
        message = self.refused(audit(tmp_path / "a.parquet", output), output, capfd)
        assert "--answers_column=answers" in message
        assert "id, question, context" in message  # what there is

    def test_annotate_with_audit_needs_it_too(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", examples(3))
        code = audit(tmp_path / "a.parquet", output, "--audit", stage="annotate")
        assert "--answers_column=answers" in self.refused(code, output, capfd)

    @pytest.mark.parametrize(
        "answers",
        [
            [[{"text": "Ada", "start": 27}]] * 3,
            ["Ada"] * 3,
            ['[{"text": "Ada", "answer_start": 27}]'] * 3,
            [["Ada"]] * 3,
            [{"text": "Ada", "answer_start": 27}] * 3,
            [{"text": ["Ada"], "answer_start": ["27"]}] * 3,
            [{"text": ["Ada"]}] * 3,
            [{"text": ["Ada"], "answer_start": [27.0]}] * 3,
            [None] * 3,
        ],
    )
    def test_wrong_nesting_in_the_first_file(
        self,
        audit: Audit,
        tmp_path: Path,
        output: Path,
        answers: list[Any],
        capfd: pytest.CaptureFixture[str],
    ):
        write_input(tmp_path / "a.parquet", examples(3).append_column("answers", pa.array(answers)))
        message = self.refused(audit(tmp_path / "a.parquet", output), output, capfd)
        assert "--answers_column=answers" in message
        assert (
            "not struct<text: list<string>, answer_start: list<int32>> or list<struct<text"
            in message
        )
        assert f"`python -m pipeline.convert import --input {tmp_path}/a.parquet --out" in message

    def test_wrong_nesting_in_a_later_file(self, audit: Audit, tmp_path: Path, output: Path):
        folder = tmp_path / "in"
        write_input(folder / "a.parquet", gold_examples(4))
        nested = [[{"text": "Ada", "answer_start": 27}]] * 3
        write_input(folder / "b.parquet", examples(3).append_column("answers", pa.array(nested)))
        write_input(folder / "c.parquet", examples(3))
        write_input(folder / "d.parquet", gold_examples(2, 50))
        assert audit(folder, output, "--keep_columns=id") == 1
        manifest = read_manifest(output)
        assert manifest["state"] == "incomplete"
        assert manifest["why"] == ["2 files were refused"]
        causes = {Path(failure["path"]).name: failure["error"] for failure in manifest["failures"]}
        assert set(causes) == {"b.parquet", "c.parquet"}
        assert "column 'answers' is list<" in causes["b.parquet"]
        assert "column 'answers' is missing" in causes["c.parquet"]
        assert report(output)["rows"]["planned"] == 6
        assert read_parts(output)["id"].to_pylist() == [f"row {n}" for n in (0, 1, 2, 3, 50, 51)]

    def test_slices_by_a_column_that_is_not_there(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", gold_examples(3))
        message = self.refused(
            audit(tmp_path / "a.parquet", output, "--slice_by=source,sauce"), output, capfd
        )
        assert "--slice_by" in message
        assert "'sauce'" in message
        assert "source" in message

    def test_a_clash_with_a_column_of_the_audit(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(
            tmp_path / "a.parquet", gold_examples(3).append_column("nll", pa.array([1.0, 2, 3]))
        )
        message = self.refused(audit(tmp_path / "a.parquet", output), output, capfd)
        assert "the output column 'nll' is already an input column" in message
        assert audit(tmp_path / "a.parquet", output, "--output_prefix=qa_") == 0
        assert read_parts(output)["nll"].to_pylist() == [1, 2, 3]
        assert read_parts(output)["qa_nll"].null_count == 0


class TestInputsOfOtherKinds:
    def test_columns_of_other_names_and_types(self, audit: Audit, tmp_path: Path, output: Path):
        """Other names, int64 starts, large lists, no ids, and a prefix."""
        table = gold_examples(11).drop_columns(["id"])
        wide = pa.struct(
            [
                ("answer_start", pa.large_list(pa.int64())),
                ("text", pa.large_list(pa.large_string())),
            ]
        )
        answers = pa.array(table["answers"].to_pylist(), wide)
        table = table.set_column(table.column_names.index("answers"), "answers", answers)
        renamed = table.rename_columns({"answers": "gold", "question": "ask", "context": "passage"})
        write_input(tmp_path / "a.parquet", renamed)
        write_input(tmp_path / "b.parquet", gold_examples(11))
        columns = (
            "--answers_column=gold",
            "--question_column=ask",
            "--context_column=passage",
            "--output_prefix=qa_",
        )
        assert audit(tmp_path / "a.parquet", output, *columns) == 0
        assert audit(tmp_path / "b.parquet", tmp_path / "plain") == 0
        found, plain = read_parts(output), read_parts(tmp_path / "plain")
        assert found["id"].to_pylist() == [f"a.parquet:0:{row}" for row in range(11)]
        for name in AUDIT_SCHEMA.names:
            assert found[f"qa_{name}"].to_pylist() == plain[name].to_pylist(), name
        assert report(output)["highest_loss"][0]["id"].startswith("a.parquet:0:")

    @pytest.mark.parametrize(
        "item",
        [
            pa.struct([("text", pa.string()), ("answer_start", pa.int64())]),
            pa.struct(
                [
                    ("id", pa.int8()),
                    ("answer_start", pa.int16()),
                    ("text", pa.dictionary(pa.int8(), pa.large_string())),
                ]
            ),
        ],
    )
    @pytest.mark.parametrize("list_of", [pa.list_, pa.large_list])
    @pytest.mark.parametrize("stage", ["audit", "annotate"])
    def test_golds_as_a_list_of_structs(
        self,
        audit: Audit,
        tmp_path: Path,
        output: Path,
        item: pa.StructType,
        list_of: Callable,
        stage: str,
    ):
        """Libraries and JSON readers give SQuAD's layout this type; the column passes through."""
        plain = gold_examples(77)
        lengths = [
            len(each["text"] or "") - len(each["answer_start"]) if each else 0
            for each in plain["answers"].to_pylist()
        ]
        # A list has a text for every start.
        plain = plain.take([row for row, length in enumerate(lengths) if length == 0])
        values = [
            each
            and [dict(zip(each, gold, strict=True)) for gold in zip(*each.values(), strict=True)]
            for each in plain["answers"].to_pylist()
        ]
        listed = plain.set_column(4, "answers", pa.array(values, list_of(item)))
        write_input(tmp_path / "plain.parquet", plain)
        write_input(tmp_path / "listed.parquet", listed)
        both = ("--audit",) if stage == "annotate" else ()
        assert audit(tmp_path / "listed.parquet", output, *both, stage=stage) == 0
        assert audit(tmp_path / "plain.parquet", tmp_path / "expected") == 0
        found, expected = (
            read_parts(output / "audit" if both else output),
            read_parts(tmp_path / "expected"),
        )
        assert found["answers"].to_pylist() == listed["answers"].to_pylist()
        for name in AUDIT_SCHEMA.names:
            assert found[name].to_pylist() == expected[name].to_pylist(), name
        assert {"scored", "unreachable", "rejected"} == set(found["status"].to_pylist())

    def test_ids_that_are_not_kept(self, audit: Audit, tmp_path: Path, output: Path):
        """The second graph must work without them."""
        write_input(tmp_path / "a.parquet", pa.concat_tables([gold_examples(2), gold_examples(2)]))
        assert audit(tmp_path / "a.parquet", output, "--keep_columns=source") == 0
        assert read_parts(output).column_names == ["source", *AUDIT_SCHEMA.names]
        found = json.loads((output / "duplicates.json").read_text())
        (name,) = (path.name for path in part_files(output))
        assert sorted(entry["ids"] for entry in found["repeated"]) == [
            [f"{name}:0", f"{name}:2"],
            [f"{name}:1", f"{name}:3"],
        ]

    @pytest.mark.parametrize(
        "ids", [[b"\xff", b"\xfe", b"c"], [1, 2, 3], [1.5, 2.5, 3.5], [None, None, None]]
    )
    def test_ids_of_other_types(self, audit: Audit, tmp_path: Path, output: Path, ids: list[Any]):
        column = pa.array(ids)
        write_input(tmp_path / "a.parquet", gold_examples(3).set_column(0, "id", column))
        assert audit(tmp_path / "a.parquet", output) == 0
        assert read_manifest(output)["rows"]["scored"] == 3
        shown = {example["id"] for example in report(output)["highest_loss"]}
        assert shown == {None if each is None else str(each) for each in ids}

    def test_zero_rows(
        self, audit: Audit, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
    ):
        write_input(tmp_path / "a.parquet", gold_examples(3).slice(0, 0))
        assert audit(tmp_path / "a.parquet", output) == 0
        assert report(output)["all"]["rows"] == 0
        assert report(output)["highest_loss"] == []
        assert json.loads((output / "duplicates.json").read_text())["repeated_pairs"] == 0
        assert "0 rows = 0 scored" in capfd.readouterr().out

    def test_nothing_but_rejections_is_no_success(self, audit: Audit, tmp_path: Path, output: Path):
        table = gold_examples(4)
        place = table.column_names.index("answers")
        write_input(
            tmp_path / "a.parquet",
            table.set_column(place, "answers", pa.array([None] * 4, ANSWERS)),
        )
        assert audit(tmp_path / "a.parquet", output) == 1
        assert report(output)["rows"]["rejected"] == 4
        assert report(output)["reasons"] == {"answers_missing": 4}
        assert read_manifest(output)["why"] == [
            "4 of 4 rows were rejected or failed, more than --max_failed_fraction=0.5"
        ]
