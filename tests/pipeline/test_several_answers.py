"""Runs with --distinct and --all_answers: parts, run.json, the audit's figures, and exports."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.convert import main
from tests.figures import same_figures
from tests.pipeline.audits import WINDOWS, Audit, report
from tests.runs import read_parts

LEAST = 0.004
NULL = ("--null=on", "--null_score_diff_threshold=-11")
DISTINCT = ("--distinct", f"--all_answers={LEAST}", "--n_best=6", *NULL)


@pytest.fixture(scope="module")
def both(audit: Audit, gold: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("several") / "out"
    options = (*WINDOWS, *DISTINCT, "--chunk_rows=7", "--audit")
    assert audit(gold, output, *options, stage="annotate") == 0
    return output


def apart(spans: list[dict[str, Any]]) -> bool:
    places = sorted((span["start"], span["end"]) for span in spans)
    return all(before[1] <= after[0] for before, after in itertools.pairwise(places))


def test_candidates_share_no_character_and_all_answers_are_in_order(both: Path):
    rows = [row for row in read_parts(both).to_pylist() if row["status"] != "rejected"]
    threshold = np.float32(LEAST)
    for row in rows:
        assert apart(row["n_best"])
        starts = [answer["start"] for answer in row["all_answers"]]
        assert starts == sorted(starts) and apart(row["all_answers"])
        assert all(np.float32(each["probability"]) >= threshold for each in row["all_answers"])
        enough = [each for each in row["n_best"] if np.float32(each["probability"]) >= threshold]
        assert all(each in row["all_answers"] for each in enough)
        assert len(row["all_answers"]) == len(enough) or len(enough) == 6
        assert row["n_best"][0]["start"] == row["answer_start"] or row["status"] == "no_answer"
    assert any(len(row["all_answers"]) > 6 for row in rows)
    assert any(row["all_answers"] and row["status"] == "no_answer" for row in rows)


def test_only_the_options_are_added_to_the_identity(
    both: Path, audit: Audit, gold: Path, tmp_path: Path
):
    plain = ("--n_best=6", *NULL, "--chunk_rows=7", "--limit=5")
    assert audit(gold, tmp_path / "out", *WINDOWS, *plain, stage="annotate") == 0
    found, without = (
        json.loads((folder / "run.json").read_text("utf-8"))["configuration"]
        for folder in (both, tmp_path / "out")
    )
    assert {name: found[name] for name in found.keys() - without.keys()} == {
        "distinct": True,
        "all_answers": LEAST,
    }
    assert "all_answers" not in read_parts(tmp_path / "out").column_names


def test_the_audit_is_the_one_that_runs_apart_in_other_chunks(
    both: Path, audit: Audit, gold: Path, tmp_path: Path
):
    assert audit(gold, tmp_path / "out", *WINDOWS, *DISTINCT, "--chunk_rows=40") == 0
    found, expected = report(both / "audit"), report(tmp_path / "out")
    for name in ("several_answers", "rows"):
        same_figures(found[name], expected[name], sums=1e-6)


def words(text: str) -> set[str]:
    for mark in ".,;:":
        text = text.replace(mark, "")
    text = re.sub("([\u3040-\u30ff\u4e00-\u9fff])", r" \1 ", text)
    return set(text.replace("/", " ").lower().split())


def test_the_figures_over_spans_equal_a_slow_computation_from_the_parts(both: Path):
    """As CUAD's evaluate.py has it, at the threshold of --all_answers."""
    found = places = wrong = several = count = 0
    for row, audited in zip(
        read_parts(both).to_pylist(), read_parts(both / "audit").to_pylist(), strict=True
    ):
        if audited["status"] == "rejected":
            continue
        count += 1
        context, answers = row["context"], row["answers"]
        golds = sorted(
            (start, start + len(text))
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
            if text.strip() and start >= 0 and context[start : start + len(text)] == text
        )
        grouped: list[list[tuple[int, int]]] = []
        for gold in golds:
            if grouped and gold[0] < max(end for _, end in grouped[-1]):
                grouped[-1].append(gold)
            else:
                grouped.append([gold])
        several += len(grouped) > 1
        places += len(grouped)
        spans = [words(each["text"]) for each in row["all_answers"]]
        hit = [False] * len(spans)
        for place in grouped:
            texts = [words(context[start:end]) for start, end in place]
            same = [
                any(2 * len(span & text) >= len(span | text) > 0 for text in texts)
                for span in spans
            ]
            found += any(same)
            hit = [one or other for one, other in zip(hit, same, strict=True)]
        wrong += hit.count(False)
    figures = report(both / "audit")["several_answers"]
    assert (figures["rows"], figures["places"]) == (count, places)
    assert figures["rows_with_several_places"] == several
    shown = figures["all_answers"]
    assert shown["precision"] == pytest.approx(100 * found / (found + wrong))
    assert shown["recall"] == pytest.approx(100 * found / places)
    assert 0 < found < places
    assert 1 < figures["aupr"] < 100


def test_all_answers_are_exported_as_several_of_a_question(both: Path, tmp_path: Path):
    path = tmp_path / "squad.json"
    export = ["export", f"--run={both}", f"--output={path}", "--format=squad"]
    assert main([*export, "--answers=all_answers"]) == 0
    articles = json.loads(path.read_text("utf-8"))["data"]
    written = {
        qa["id"]: [(each["text"], each["answer_start"]) for each in qa["answers"]]
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }
    assert written == {
        row["id"]: [(each["text"], each["start"]) for each in row["all_answers"]]
        for row in read_parts(both).to_pylist()
        if row["status"] != "rejected"
    }
