"""Input files in other formats: runs read Parquet copies, as `convert import` makes them."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import convert
from pipeline.job.copies import Copies, publish_copies, remove_unpublished
from pipeline.job.options import Refused
from pipeline.job.settings import Columns
from tests.pipeline.job.conftest import Resolve
from tests.runs import (
    Annotate,
    identities,
    read_manifest,
    read_parts,
    read_rejections,
    write_input,
)
from transforms.find_inputs import find_inputs
from transforms.plan_chunks import ChunkSize, plan_chunks
from transforms.records import InputFile
from transforms.storage import state_of

CONTEXT = "🌊 In 1871 the keeper Ada lit the lamp."


def row(number: int, **others: Any) -> dict[str, Any]:
    context = f"{CONTEXT} Ben rang bell {number}."
    answers = {"text": ["Ada"], "answer_start": [context.index("Ada")]}
    asked = {"id": f"row {number}", "question": "Who lit the lamp?", "context": context}
    return {**asked, "answers": answers, **others}


def write_lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def entries(output: Path) -> list[dict[str, Any]]:
    return json.loads((output / "run.json").read_text("utf-8"))["inputs"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make temporary files in a folder of the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def copied(path: Path, tmp_path: Path, most: int | None = None, **names: str) -> InputFile:
    """Return the file with its copy in `tmp_path / out`."""
    copies = Copies.for_columns(Columns(**names), False, str(tmp_path / "out"), reuse=True)
    (file,) = publish_copies(
        [copies.with_copy(file, most) for file in find_inputs(str(path))], str(tmp_path / "out")
    )
    return file


def test_runs_equal_those_of_imported_files(annotate: Annotate, tmp_path: Path, temporary: Path):
    """Partitions of JSON lines, of a table and of Parquet, with a question and golds missing."""
    given, imported = tmp_path / "given", tmp_path / "imported"
    rows = [row(number, page=number) for number in range(1030)]  # two row groups
    rows[3]["question"], rows[4]["answers"], rows[5]["answers"] = None, None, ["Ada", "the lamp"]
    write_lines(given / "lang=en" / "a.jsonl.gz", "", *rows[:3], "", *rows[3:])
    table = 'id,question,context,answers,page\nb 1,Who?,"Ada lit\nthe lamp.",Ada,3\n'
    (given / "lang=de").mkdir()
    (given / "lang=de" / "b.csv").write_text(table, "utf-8")
    for source in ("lang=en/a.jsonl.gz", "lang=de/b.csv"):
        target = imported / Path(source).parent / f"{Path(source).name.split('.')[0]}.parquet"
        command = ["import", f"--input={given / source}", f"--output={target}"]
        target.parent.mkdir(parents=True)
        assert convert.main(command) == 0
    some = pq.read_table(imported / "lang=en" / "a.parquet").slice(0, 5)
    for folder in (given, imported):
        write_input(folder / "lang=fr" / "c.parquet", some)
    options = "--audit", "--dtype=float32", "--worst=3", "--keep_columns=id,context,lang"
    assert annotate(f"{given}/**/*.*", tmp_path / "out", *options) == 0
    assert annotate(imported, tmp_path / "expected", *options) == 0

    for stage in (".", "audit"):
        out, expected = tmp_path / "out" / stage, tmp_path / "expected" / stage
        assert read_parts(out).equals(read_parts(expected))
        assert read_manifest(out)["rows"] == read_manifest(expected)["rows"]
    assert [each["row"] for each in read_rejections(tmp_path / "out")] == [3, 3]
    first = read_rejections(tmp_path / "out")[0]
    assert first["path"] == str(given / "lang=en" / "a.jsonl.gz")
    # What the report shows is read from the copies, too.
    report = (tmp_path / "out" / "audit" / "report.html").read_text("utf-8")
    assert report.count("Ben rang bell") == (
        tmp_path / "expected" / "audit" / "report.html"
    ).read_text("utf-8").count("Ben rang bell")
    assert "Ben rang bell" in report
    assert [Path(each["path"]).name for each in entries(tmp_path / "out")] == [
        "b.csv",
        "a.jsonl.gz",
        "c.parquet",
    ]
    assert ["copy" in each for each in entries(tmp_path / "out")] == [True, True, False]
    assert not list(temporary.iterdir())


def test_reruns_resume_with_or_without_the_copies(
    annotate: Annotate, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
):
    source = write_lines(tmp_path / "a.jsonl", *map(row, range(5)))
    assert annotate(source, output, "--chunk_rows=2") == 0
    kept, copies = identities(output), sorted((output / "copies").iterdir())
    times = [path.stat().st_mtime_ns for path in copies]
    assert annotate(source, output, "--chunk_rows=2") == 0
    assert [path.stat().st_mtime_ns for path in copies] == times
    for path in copies:
        path.unlink()
    assert annotate(source, output, "--chunk_rows=2") == 0
    assert identities(output) == kept
    assert sorted((output / "copies").iterdir()) == copies

    capfd.readouterr()
    assert annotate(source, output, "--chunk_rows=2", "--answers_column=golds") == 2
    assert f"input {source} was read with another --answers_column" in capfd.readouterr().err
    write_lines(source, *map(row, range(6)))
    assert annotate(source, output, "--chunk_rows=2") == 2
    assert f"input {source} has changed since" in capfd.readouterr().err
    assert sorted((output / "copies").iterdir()) == copies
    for options in ((), ("--n_best=3",)):  # the second has the copies of the first
        assert annotate(source, output, "--chunk_rows=2", "--overwrite", *options) == 0
        assert read_parts(output).num_rows == 6
        assert len(list((output / "copies").iterdir())) == 2


def test_overwrite_makes_a_damaged_copy_again(
    annotate: Annotate, tmp_path: Path, output: Path, capfd: pytest.CaptureFixture[str]
):
    source = write_lines(tmp_path / "a.jsonl", row(0))
    assert annotate(source, output) == 0
    (copy,) = (output / "copies").glob("*.parquet")
    copy.write_bytes(b"PAR1")
    assert annotate(source, output) == 2
    assert f"the copy {copy} of {source} can't be read" in capfd.readouterr().err
    assert annotate(source, output, "--overwrite") == 0
    assert pq.read_metadata(copy).num_rows == 1


def test_of_two_processes_one_publishes(tmp_path: Path):
    """The other, which has made the same copy, does not change the file that the first reads."""
    (file,) = find_inputs(str(write_lines(tmp_path / "a.jsonl", row(0))))
    output = str(tmp_path / "out")
    made = [Copies.for_columns(Columns(), False, output, reuse=True) for _ in range(2)]
    copied = [copies.with_copy(file, None) for copies in made]
    (first,) = publish_copies(copied[:1], output)
    state = state_of(first.copy)
    assert publish_copies(copied[1:], output) == (first,)
    assert state_of(first.copy) == state
    publish_copies(copied[1:], output, again=True)
    assert state_of(first.copy) != state


def test_a_process_that_ends_abruptly_leaves_no_copies(tmp_path: Path, temporary: Path):
    (file,) = find_inputs(str(write_lines(tmp_path / "a.jsonl", row(0))))
    copies = Copies.for_columns(Columns(), False, str(tmp_path / "out"), reuse=True)
    (temporary / "spanmill-copies-1-of-another").mkdir()
    assert Path(copies.with_copy(file, None).copy).is_relative_to(temporary)
    remove_unpublished()
    assert [path.name for path in temporary.iterdir()] == ["spanmill-copies-1-of-another"]


def test_a_question_list_asks_documents_of_a_table(
    annotate: Annotate, tmp_path: Path, output: Path
):
    """Made-up ids name the file; what the documents ask themselves is kept."""
    source = tmp_path / "a.tsv"
    source.write_text("body\tquestion\nAda lit the lamp.\tWhy?\nBen rang it.\t\n", "utf-8")
    asked = write_lines(tmp_path / "questions.jsonl", {"question": "Who?"}, {"question": "What?"})
    assert annotate(source, output, f"--questions={asked}", "--context_column=body") == 0
    rows = read_parts(output).to_pylist()
    assert [(each["id"], each["body"], each["question"]) for each in rows] == [
        ("a.tsv:0:0", "Ada lit the lamp.", "Why?"),
        ("a.tsv:0:1", "Ben rang it.", ""),
    ]
    assert [len(each["question_answers"]) for each in rows] == [2, 2]


def test_copies_have_the_columns_of_the_file(tmp_path: Path):
    """Columns that options name keep their names; those that the file lacks are not added."""
    source = write_lines(tmp_path / "a.jsonl", {"q": "Who?", "text": "Ada.", "question": 3})
    file = copied(source, tmp_path, question_column="q", context_column="text")
    assert pq.read_table(file.parquet).to_pylist() == [{"q": "Who?", "text": "Ada.", "question": 3}]
    assert file.path == str(source)


def test_a_column_without_values_fits_that_of_another_file(tmp_path: Path, job: Resolve):
    """A number as a question makes no column of answers."""
    write_lines(
        tmp_path / "a.jsonl", {**row(0), "answers": None, "page": None, "x": None, "question": 7}
    )
    write_lines(tmp_path / "b.jsonl", {**row(1), "answers": None, "page": 3, "x": None})
    resolved = job(f"--input={tmp_path}/*.jsonl")
    expected = resolved.inputs.expected
    assert expected.names == ["id", "question", "context", "page", "x"]
    assert expected.field("page").type == pa.int64()
    assert expected.field("x").type == pa.string()
    for file in resolved.files:
        (planned,) = plan_chunks(file, expected, resolved.inputs.texts, ChunkSize(10, 2**20))
        assert not planned.refused


def test_a_limit_copies_only_the_first_rows(job: Resolve, tmp_path: Path):
    source = write_lines(tmp_path / "a.jsonl", row(0), row(1), "{not read")
    write_lines(tmp_path / "b.jsonl", "{not read")
    limited = job(f"--input={tmp_path}/*.jsonl", "--limit=2")
    (file,) = limited.files
    assert (file.path, file.rows) == (str(source), 2)
    assert pq.read_metadata(file.parquet).num_rows == 2


def test_a_file_of_another_ending_may_be_parquet(tmp_path: Path):
    path = write_input(tmp_path / "a.json", pa.table({"question": ["Who?"]}))
    assert copied(path, tmp_path).parquet == str(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"question": "Who?", "context": "Ada."}\n{"quest\n', "line 2: not_json"),
        ("a.jsonl", b'{"question": "Who?", "context": "\xff"}\n', "line 1: context_not_utf8"),
        ("a.csv", b"question,context\nWho?,Ada.\nWho?\n", "line 3: cells_unequal"),
        ("a.csv", b"question;context\nWho?;Ada.\n", "its header is divided by ';', not by ','"),
        ("a.csv", b'question,context\nWho?,"Ada.\n', "a quoted cell is not closed"),
        ("a.jsonl", b"", "it has no row"),
        ("a.jsonl", b'{"question": "Who?"}\n', "no row has text as its context"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"question": "Who?"}\n', mtime=0)[:20],
            "Compressed file ended",
        ),
    ],
)
def test_what_can_not_be_read_as_a_whole_is_refused(
    job: Resolve, tmp_path: Path, temporary: Path, name: str, content: bytes, message: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused) as refused:
        job(f"--input={tmp_path / name}")
    assert str(refused.value).startswith(f"--input: {tmp_path / name}: ")
    assert message in str(refused.value)
    if not name.endswith(".gz"):
        assert "`python -m pipeline.convert import" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_audit_needs_answers(job: Resolve, tmp_path: Path):
    lines = {key: value for key, value in row(0).items() if key != "answers"}
    source = write_lines(tmp_path / "a.jsonl", lines)
    with pytest.raises(Refused, match=f"--answers_column=answers: {source} has the columns id, q"):
        job(f"--input={source}", stage="audit")


def test_a_file_that_changes_while_it_is_copied_is_refused(tmp_path: Path):
    source = write_lines(tmp_path / "a.jsonl", row(0))
    (file,) = find_inputs(str(source))
    write_lines(source, row(0), row(1))
    copies = Copies.for_columns(Columns(), False, str(tmp_path / "out"), reuse=True)
    with pytest.raises(Refused, match="was changed while it was read"):
        copies.with_copy(file, None)


def test_a_lost_copy_is_refused_by_name(tmp_path: Path):
    file = copied(write_lines(tmp_path / "a.jsonl", row(0)), tmp_path)
    expected = pq.read_schema(file.copy)
    (planned,) = plan_chunks(file, expected, ("question", "context"), ChunkSize(10, 2**20))
    assert (planned.path, planned.copy) == (file.path, file.copy)
    Path(file.copy).unlink()
    (planned,) = plan_chunks(file, expected, ("question", "context"), ChunkSize(10, 2**20))
    assert "FileNotFoundError" in planned.refused
    assert file.copy in planned.refused
