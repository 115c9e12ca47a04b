"""Runs of annotate --questions: answers of the same rows asked apart, accounting, resuming."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import convert, show
from tests.runs import (
    EXACT,
    Annotate,
    examples,
    identities,
    part_files,
    read_manifest,
    read_parts,
    read_rejections,
    run,
    write_input,
)
from transforms import predict_spans

QUESTIONS = [
    {"question_id": "who", "question": "Who lit the lamp?"},
    {"question_id": "when", "question": "In which year?", "n_best": 2},
    {"question_id": "again", "question": "Who lit the lamp?", "max_answer_length": 2},
]

LIMITS = ("--max_length=64", "--max_question=12", "--overlap=20", "--max_answer_length=6")

Run = Any


def documents() -> pa.Table:
    """Return rows with a question of their own, of which some have no text."""
    table = examples(9).to_pylist()
    for row, context in {1: None, 4: " ", 6: "In 1820 Ben lit the lamp. " * 20}.items():
        table[row]["context"] = context
    table[7]["context"] = table[0]["context"]
    return pa.Table.from_pylist(table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("question_lists")
    write_input(folder / "in.parquet", documents(), row_group_size=5)
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (folder / "questions.jsonl").write_text(lines, "utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path, bert_folder: Path) -> Path:
    """Run the list over the documents, in parts of two rows; tests must not change the output."""
    assert ask(folder, bert_folder, folder / "out") == 0
    return folder / "out"


def ask(folder: Path, model: Path, output: Path, *options: str) -> int:
    return run(
        "annotate",
        f"--input={folder}/in.parquet",
        f"--questions={folder}/questions.jsonl",
        f"--output={output}",
        f"--model={model}",
        "--chunk_rows=2",
        "--dtype=float32",
        *LIMITS,
        *options,
    )


def answers(output: Path) -> list[dict[str, Any]]:
    """Return the answers of all asks, row by row."""
    return [
        answer
        for row in read_parts(output).column("question_answers").to_pylist()
        for answer in row
    ]


def test_output_mirrors_the_input(finished: Path):
    parts, source = read_parts(finished), documents()
    assert parts.column_names == [*source.column_names, "question_answers"]
    for name in source.column_names:
        assert parts.column(name).to_pylist() == source.column(name).to_pylist()
    for row in parts.column("question_answers").to_pylist():
        assert [answer["question_id"] for answer in row] == ["who", "when", "again"]
        assert [answer["question"] for answer in row] == [each["question"] for each in QUESTIONS]
    for row in parts.to_pylist():
        for answer in row["question_answers"]:
            if answer["status"] == "answered":
                start, end = answer["answer_start"], answer["answer_end"]
                assert answer["answer_text"] == row["context"][start:end]


def test_answers_are_those_of_the_same_rows(
    finished: Path, folder: Path, bert_folder: Path, tmp_path: Path
):
    """Each question is asked in a run of its own, with its own settings as options."""
    own = [(), ("--n_best=2",), ("--max_answer_length=2",)]
    for number, (question, options) in enumerate(zip(QUESTIONS, own, strict=True)):
        table = documents()
        texts = pa.array([question["question"]] * table.num_rows)
        source = write_input(tmp_path / f"{number}.parquet", table.set_column(1, "question", texts))
        output = tmp_path / f"out{number}"
        assert (
            run(
                "annotate",
                f"--input={source}",
                f"--output={output}",
                f"--model={bert_folder}",
                "--dtype=float32",
                *LIMITS,
                *options,
            )
            == 0
        )
        rows = read_parts(output).to_pylist()
        for got, expected in zip(answers(finished)[number::3], rows, strict=True):
            for name in EXACT:
                assert got[name] == expected[name], name
            if expected["probability"] is None:
                assert got["probability"] is None
            else:
                assert got["probability"] == pytest.approx(expected["probability"], rel=1e-4)
            texts_of = [[each["text"] for each in row["n_best"] or []] for row in (got, expected)]
            assert texts_of[0] == texts_of[1]


def test_accounting_counts_asks(finished: Path):
    manifest = read_manifest(finished)
    assert manifest["state"] == "complete"
    assert manifest["questions"] == 3
    assert manifest["rows"] == {
        "planned": 27,
        "answered": 21,
        "no_answer": 0,
        "below_threshold": 0,
        "rejected": 6,
        "in_failed_chunks": 0,
    }
    assert manifest["reasons"] == {"context_blank": 3, "context_missing": 3}
    assert Counter(answer["status"] for answer in answers(finished)) == {
        "answered": 21,
        "rejected": 6,
    }
    configuration = json.loads((finished / "run.json").read_text())["configuration"]
    assert len(configuration["questions"]) == 64


def test_rejections_name_row_and_question(finished: Path):
    assert [
        (each["id"], each["row"], each["question_id"], each["stage"], each["reason"])
        for each in read_rejections(finished)
    ] == [
        (f"row {row}", row, question["question_id"], "MakeWindows", reason)
        for row, reason in ((1, "context_missing"), (4, "context_blank"))
        for question in QUESTIONS
    ]


def test_a_rerun_computes_what_is_missing(
    finished: Path, folder: Path, bert_folder: Path, tmp_path: Path
):
    output = tmp_path / "out"
    assert ask(folder, bert_folder, output) == 0
    before, manifest = identities(output), read_manifest(output)
    lost = part_files(output)[2].name
    (output / "parts" / lost).unlink()
    (output / "manifest.json").unlink()
    assert ask(folder, bert_folder, output) == 0
    after = identities(output)
    assert {name for name in after if after[name] != before[name]} == {lost}
    again = read_manifest(output)
    for name in ("rows", "reasons", "content", "windows", "chunks"):
        assert again[name] == manifest[name] == read_manifest(finished)[name], name
    assert read_parts(output).equals(read_parts(finished))


def test_another_list_is_refused_and_another_format_is_not(
    finished: Path, folder: Path, bert_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
):
    before = identities(finished)
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "Who?"}\n')
    assert ask(folder, bert_folder, finished, f"--questions={other}") == 2
    assert "has another run: questions was" in capfd.readouterr().err
    table = pa.Table.from_pylist(
        [{"n_best": None, "max_answer_length": None, **question} for question in QUESTIONS]
    )
    pq.write_table(table, tmp_path / "same.parquet")
    assert ask(folder, bert_folder, finished, f"--questions={tmp_path}/same.parquet") == 0
    assert identities(finished) == before


def test_two_processes(finished: Path, folder: Path, bert_folder: Path, tmp_path: Path):
    processes = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert ask(folder, bert_folder, tmp_path / "out", *processes) == 0
    for name in ("rows", "reasons", "content", "windows", "questions"):
        assert read_manifest(tmp_path / "out")[name] == read_manifest(finished)[name]
    assert read_rejections(tmp_path / "out") == read_rejections(finished)


def test_a_failed_chunk_fails_all_its_asks(
    folder: Path,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
):
    read_pairs, calls = predict_spans.read_pairs, []

    def fail_second(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("this chunk")
        return read_pairs(*arguments)

    monkeypatch.setattr(predict_spans, "read_pairs", fail_second)
    assert ask(folder, bert_folder, tmp_path / "out") == 1
    manifest = read_manifest(tmp_path / "out")
    assert manifest["rows"]["in_failed_chunks"] == 6
    assert manifest["rows"]["planned"] == 27 == sum(manifest["rows"].values()) - 27
    assert "9 rows x 3 questions = 27 = " in capfd.readouterr().out
    assert ask(folder, bert_folder, tmp_path / "out") == 0  # a rerun tries the chunk again
    assert read_manifest(tmp_path / "out")["rows"]["in_failed_chunks"] == 0


def test_too_many_rejected_asks(folder: Path, bert_folder: Path, tmp_path: Path):
    output = tmp_path / "out"
    assert ask(folder, bert_folder, output, "--max_failed_fraction=0.2", "--limit=5") == 1
    manifest = read_manifest(output)
    assert manifest["rows"]["planned"] == 15
    assert manifest["why"] == [
        "6 of 15 questions were rejected or failed, more than --max_failed_fraction=0.2"
    ]


def test_blocks_change_nothing_but_the_batches(
    finished: Path,
    folder: Path,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    read_pairs = predict_spans.read_pairs
    monkeypatch.setattr(
        predict_spans, "read_pairs", lambda *given: read_pairs(*given, most_windows=4)
    )
    assert ask(folder, bert_folder, tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out")["content"] == read_manifest(finished)["content"]


def test_the_bundled_questions_of_the_bundled_sample(annotate: Annotate, output: Path):
    assert annotate("bundled", output, "--questions=bundled", "--limit=12") == 0
    manifest = read_manifest(output)
    assert manifest["rows"]["planned"] == 60
    assert manifest["configuration"]["chunk_rows"] == 2048 // 5


def test_ten_thousand_questions_of_one_document(annotate: Annotate, tmp_path: Path, output: Path):
    source = write_input(tmp_path / "in.parquet", examples(1))
    lines = (f'{{"question": "Who is {number}?"}}\n' for number in range(10_000))
    (tmp_path / "list.jsonl").write_text("".join(lines))
    assert annotate(source, output, f"--questions={tmp_path}/list.jsonl") == 0
    assert read_manifest(output)["rows"]["answered"] == 10_000
    (row,) = read_parts(output).to_pylist()
    assert row["question_answers"][-1]["question_id"] == "q10000"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the headings of the entries that `pipeline.show` prints."""
    assert show.main([*arguments]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]


def test_show_has_an_entry_per_document_and_question(
    finished: Path, capsys: pytest.CaptureFixture[str]
):
    capsys.readouterr()
    assert shown(capsys, str(finished), "--id=row 3") == [
        "row 3, who: Who lit the lamp?",
        "row 3, when: In which year?",
        "row 3, again: Who lit the lamp?",
    ]
    assert len(shown(capsys, str(finished))) == 12
    assert len(shown(capsys, str(finished), "--sample=2")) == 6
    by_question = shown(capsys, str(finished), "--question=when")
    assert by_question == [f"row {row}, when: In which year?" for row in range(9)]
    assert show.main([str(finished), "--id=row 1"]) == 0
    assert "rejected: context_missing" in capsys.readouterr().out
    assert show.main([str(finished), "--question=none"]) == 1


def test_show_takes_a_question_only_for_a_list(
    annotate: Annotate, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
):
    assert annotate(write_input(tmp_path / "in.parquet", examples(2)), output) == 0
    assert show.main([str(output), "--question=who"]) == 2
    assert "was not run with --questions" in capsys.readouterr().err
    assert convert.main(["flatten", str(output), f"--output={tmp_path}/flat.parquet"]) == 2
    assert "was not run with --questions" in capsys.readouterr().err


def test_predictions_are_keyed_by_both_ids(finished: Path, tmp_path: Path):
    export = ["export", f"--run={finished}", f"--output={tmp_path}", "--format=predictions"]
    assert convert.main(export) == 0
    predictions = json.loads((tmp_path / "predictions.json").read_text("utf-8"))
    rows = read_parts(finished).to_pylist()
    assert predictions == {
        json.dumps([row["id"], answer["question_id"]], ensure_ascii=False): answer["answer_text"]
        or ""
        for row in rows
        for answer in row["question_answers"]
    }
    assert len(predictions) == 27
    assert predictions.keys() == json.loads((tmp_path / "na_prob.json").read_text("utf-8")).keys()


def test_squad_json_asks_every_paragraph_all_questions(finished: Path, tmp_path: Path):
    export = ["export", f"--run={finished}", "--format=squad", f"--output={tmp_path}/squad.json"]
    assert convert.main(export) == 0
    (article,) = json.loads((tmp_path / "squad.json").read_text("utf-8"))["data"]
    kept = [row for row in read_parts(finished).to_pylist() if row["id"] not in ("row 1", "row 4")]
    assert [paragraph["context"] for paragraph in article["paragraphs"]] == [
        row["context"] for row in kept
    ]
    for paragraph, row in zip(article["paragraphs"], kept, strict=True):
        assert [qa["question"] for qa in paragraph["qas"]] == [q["question"] for q in QUESTIONS]
        assert [qa["answers"][0]["text"] for qa in paragraph["qas"]] == [
            answer["answer_text"] for answer in row["question_answers"]
        ]


def test_json_lines_hold_the_lists(finished: Path, tmp_path: Path):
    export = ["export", f"--run={finished}", "--format=jsonl", f"--output={tmp_path}/rows.jsonl"]
    assert convert.main(export) == 0
    lines = (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()
    rows = read_parts(finished).to_pylist()
    for line, row in zip(map(json.loads, lines), rows, strict=True):
        assert line["id"] == row["id"]
        assert [each["answer_text"] for each in line["question_answers"]] == [
            each["answer_text"] for each in row["question_answers"]
        ]


def test_flatten(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "flat.parquet"
    command = ["flatten", str(finished), f"--output={path}"]
    assert convert.main(command) == 2  # the documents have questions of their own
    assert "--drop_columns=question leaves that out" in capsys.readouterr().err
    assert not path.exists()
    assert convert.main([*command, "--drop_columns=none"]) == 2
    assert convert.main([*command, "--drop_columns=question"]) == 0
    rows = read_parts(finished).to_pylist()
    assert pq.read_table(path).to_pylist() == [
        {"id": row["id"], "context": row["context"], **answer}
        for row in rows
        for answer in row["question_answers"]
    ]


def test_a_condition_on_answers_says_what_to_do(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert show.main([str(finished), "--where=status == 'rejected'"]) == 2
    assert "`pipeline.convert flatten` makes columns of the answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["flatten", "{}", "--drop_columns=question", "--output={}/parts/flat.parquet"],
        ["export", "--run={}", "--format=jsonl", "--output={}/rejections/a.jsonl"],
        ["export", "--run={}", "--format=predictions", "--output={}/parts"],
    ],
)
def test_no_file_is_written_among_the_parts(
    command: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
):
    before = sorted(finished.rglob("*"))
    assert convert.main([each.format(finished) for each in command]) == 2
    assert re.search("is among the (parts|rejections) of the run", capsys.readouterr().err)
    assert sorted(finished.rglob("*")) == before


def test_a_prefix_names_the_columns_that_are_flattened(
    folder: Path, bert_folder: Path, tmp_path: Path
):
    assert ask(folder, bert_folder, tmp_path / "out", "--output_prefix=m_") == 0
    assert "m_question_answers" in read_parts(tmp_path / "out").column_names
    path = tmp_path / "flat.parquet"
    assert convert.main(["flatten", str(tmp_path / "out"), f"--output={path}"]) == 0
    names = pq.read_schema(path).names
    assert names[:6] == [
        "id",
        "question",
        "context",
        "m_question_id",
        "m_question",
        "m_answer_text",
    ]
