"""Training data: which rows are taken, grouped and kept out, and the targets of windows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.reading.tokenizer import Tokenizer
from model.settings import SettingError
from model.training.data import (
    ABSENT,
    NULL,
    UNLABELLED,
    majority_gold,
    make_examples,
    plan_epoch,
    read_training_rows,
    refuse_known,
    usable_windows,
    with_joined_passages,
    with_unanswerables,
)
from pipeline.bundled import SAMPLE


def row(number: int, source: str = "a") -> dict:
    gold = {"text": [f"word{number}"], "answer_start": [len(f"passage {number} says ")]}
    return {
        "source": source,
        "question": f"q{number}",
        "context": f"passage {number} says word{number}",
        "answers": gold,
    }


def test_golds_as_a_list_of_structs(tmp_path: Path) -> None:
    golds = row(0)["answers"]
    listed = [{"text": golds["text"][0], "answer_start": golds["answer_start"][0]}]
    pq.write_table(pa.Table.from_pylist([{**row(0), "answers": listed}]), tmp_path / "rows.parquet")
    assert [each["answers"] for each in read_training_rows(str(tmp_path / "rows.parquet"))] == [
        golds
    ]


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    path = f"{tmp_path}/nowhere.parquet"
    with pytest.raises(SettingError, match=f"^eval={path}: there is no such file$"):
        read_training_rows(path, given_as="eval")


def test_unlabelled_rows_need_no_golds(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    rows = [{"question": "q", "context": "c"}, {"question": " ", "context": "c"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_training_rows(path, labelled=False) == [{**rows[0], "answers": None}]
    with pytest.raises(SettingError, match="it has no column 'answers'"):
        read_training_rows(path)
    pq.write_table(pa.Table.from_pylist(rows[1:]), path)
    said = f"^unlabelled={path}: no row has a question and a context$"
    with pytest.raises(SettingError, match=said):
        read_training_rows(path, given_as="unlabelled", labelled=False)


def test_a_mix_takes_rows_by_their_source(tmp_path: Path) -> None:
    rows = [row(k, source) for source in ("one", "other_x", "other_y", "plain") for k in range(200)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    taken = Counter(
        each["source"]
        for each in read_training_rows(
            str(tmp_path / "rows.parquet"), {"one": 2.5, "other*": 0.3, "*x": 9}
        )
    )
    assert taken["plain"] == 200
    assert 450 < taken["one"] < 550
    assert 30 < taken["other_x"] < 90
    assert 30 < taken["other_y"] < 90


def test_passages_of_evaluation_files_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([row(1), row(2)]), tmp_path / "kept_out.parquet")
    assert refuse_known([row(3)], str(tmp_path / "kept_out.parquet")) == 2
    known = {**row(3), "context": "The  PASSAGE 2 says: word2."}
    with pytest.raises(ValueError, match="PASSAGE 2 says"):
        refuse_known([row(3), known], str(tmp_path / "kept_out.parquet"))


def test_passages_without_golds_or_questions_are_kept_out_too(tmp_path: Path) -> None:
    path = str(tmp_path / "kept_out.parquet")
    pq.write_table(pa.Table.from_pylist([{"context": row(1)["context"]}]), path)
    with pytest.raises(SettingError, match="passage 1 says"):
        refuse_known([row(1)], path)


def test_golds_that_are_elsewhere_are_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, aside = str(tmp_path / "rows.parquet"), row(1)
    shifted = {"text": ["word2", "word2"], "answer_start": [14, 15]}
    beyond = {"text": ["word3"], "answer_start": [400]}
    rows = [aside, {**row(2), "answers": shifted}, {**row(3), "answers": beyond}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    usable = read_training_rows(path)
    assert [each["context"] for each in usable] == [aside["context"], row(2)["context"]]
    assert usable[1]["answers"] == {"text": ["word2"], "answer_start": [15]}
    assert "--train: 2 golds are not in their context where they should be" in caplog.text
    assert "with 1 rows that have no other" in caplog.text


def test_files_may_hold_their_texts_and_golds_in_different_types(tmp_path: Path) -> None:
    golds = row(0)["answers"]
    listed = [{"text": golds["text"][0], "answer_start": golds["answer_start"][0]}]
    pq.write_table(pa.Table.from_pylist([row(0)]), tmp_path / "a.parquet")
    other = pa.Table.from_pylist([{**row(0), "answers": listed}])
    other = other.set_column(
        other.column_names.index("context"), "context", other.column("context").dictionary_encode()
    )
    pq.write_table(other, tmp_path / "b.parquet")
    first, second = read_training_rows(f"{tmp_path}/a.parquet,{tmp_path}/b.parquet")
    assert {**first, "source": None} == {**second, "source": None}


@pytest.mark.parametrize("answers", [["word0"], [{"text": "word0"}], "word0"])
def test_answers_of_another_shape_are_refused_by_name(tmp_path: Path, answers: Any) -> None:
    path = str(tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist([{**row(0), "answers": answers}]), path)
    with pytest.raises(SettingError, match=r"its column 'answers' is .*, without text and answer_"):
        read_training_rows(path)


def test_a_mix_that_takes_nothing_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist([row(0), {**row(1), "source": None}]), path)
    with pytest.raises(SettingError, match=r"^mix: it takes none of the 2 rows; .*: \(null\), a$"):
        read_training_rows(path, {"b": 1.0, "*": 0.0})
    assert len(read_training_rows(path, {"b": 1.0})) == 2
    assert "--mix: no source is taken by b" in caplog.text


def test_the_gold_of_most_annotators_is_trained_on() -> None:
    texts = ["the green hill", "hill", "A green hill", "hill top"]
    assert majority_gold({"text": texts, "answer_start": [5, 15, 40, 15]}) == (
        5,
        5 + len("the green hill"),
    )
    assert majority_gold({"text": ["b", "a"], "answer_start": [7, 1]}) == (7, 8)
    assert majority_gold({"text": [], "answer_start": []}) is None


def test_made_rows_follow_the_row_that_they_were_made_from() -> None:
    rows = [row(k) for k in range(40)]
    made = with_unanswerables(rows, 0.5, seed=0)
    assert 50 <= len(made) <= 60
    assert made == with_unanswerables(rows, 0.5, seed=0)
    assert [each["group"] for each in made] == sorted(each["group"] for each in made)
    for each in made:
        source = rows[each["group"]]
        if each["answers"]["text"]:
            assert each == {**source, "group": each["group"]}
        else:
            assert each["question"] == source["question"]
            assert each["context"] != source["context"]


def test_joined_passages_keep_their_gold_and_hold_no_other() -> None:
    rows = [row(k) for k in range(40)]
    rows[7] = {**rows[7], "context": "passage 7 repeats word8"}
    unanswerable = {
        "question": "q",
        "context": "passage without",
        "answers": {"text": [], "answer_start": []},
        "source": "a",
    }
    joined = with_joined_passages([*rows, unanswerable], 0.5, 6, seed=0)
    assert joined == with_joined_passages([*rows, unanswerable], 0.5, 6, seed=0)
    assert joined[-1] == unanswerable
    long = [k for k, each in enumerate(joined) if "\n" in each["context"]]
    assert 10 < len(long) < 30
    places = set()
    for k in long:
        passages = joined[k]["context"].split("\n")
        assert len(passages) <= 6
        assert rows[k]["context"] in passages
        places.add(passages.index(rows[k]["context"]))
        start, text = joined[k]["answers"]["answer_start"][0], joined[k]["answers"]["text"][0]
        assert k == 7 or joined[k]["context"][start : start + len(text)] == text
        assert [text in passage.split() for passage in passages].count(True) == (k != 7)
    assert len(places) > 3


def test_a_window_has_the_ends_of_the_gold_that_it_contains(bert_folder: Path) -> None:
    words = [f"word{k}" for k in range(60)]
    context = " ".join(words)
    gold = " ".join(words[20:32])
    answers = {"text": [gold], "answer_start": [context.index(gold)]}
    labelled = {"question": "which", "context": context, "answers": answers, "group": 0}
    rows = [labelled, {**labelled, "answers": None, "group": 1}]
    examples = make_examples(
        rows, Tokenizer(bert_folder), max_length=64, overlap=8, max_question=16
    )
    windows, begin, end = examples.windows, context.index(gold), context.index(gold) + len(gold)
    first = int(np.flatnonzero(windows.passages.char_start == begin)[0])
    last = int(np.flatnonzero(windows.passages.char_end == end)[-1])
    of_labelled = np.flatnonzero(windows.pair == 0)
    for window in of_labelled:
        held = range(windows.start[window], windows.stop[window])
        nothing = NULL if not set(held) & set(range(first, last + 1)) else ABSENT
        assert examples.start[window] == (first if first in held else nothing)
        assert examples.end[window] == (last if last in held else nothing)
    assert {first, NULL} < set(examples.start[of_labelled].tolist())
    assert ABSENT in np.concatenate([examples.start[of_labelled], examples.end[of_labelled]])

    # With a normaliser of its own, a window needs both ends or neither.
    alone = usable_windows(examples, null=True, shared_normalisation=False)
    both = (examples.start >= 0) & (examples.end >= 0)
    wanted = both | (examples.start == NULL) | (examples.start == UNLABELLED)
    assert alone.tolist() == np.flatnonzero(wanted).tolist()

    # Windows of a labelled row form a group; each window of an unlabelled one is its own.
    assert set(examples.group[of_labelled]) == {0}
    others = examples.group[windows.pair == 1]
    assert others.tolist() == list(range(1, 1 + len(others)))
    assert set(examples.start[windows.pair == 1].tolist()) == {UNLABELLED}


def test_an_epoch_holds_every_window_once(bert_folder: Path) -> None:
    rows = read_training_rows(SAMPLE)[:50]
    examples = make_examples(rows, Tokenizer(bert_folder), 128, 32, 32)
    usable = np.arange(len(examples.windows))
    batches = plan_epoch(examples, usable, 1000, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == usable.tolist()
    lengths = examples.windows.lengths
    for batch in batches:
        assert len(set(examples.group[batch])) == 1 or len(batch) * lengths[batch].max() <= 1000
