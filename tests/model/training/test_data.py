"""Training data: which rows are taken, grouped and kept out, and the targets of windows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.reading.tokenizer import Tokenizer
from model.settings import SettingError
from model.training.data import (
    ABSENT,
    NULL,
    majority_gold,
    make_examples,
    plan_epoch,
    read_rows,
    refuse_known,
    with_joined_passages,
    with_unanswerables,
)

SAMPLE = Path(__file__).parents[3] / "pipeline" / "bundled" / "sample.parquet"


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
    assert [each["answers"] for each in read_rows(str(tmp_path / "rows.parquet"))] == [golds]


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    path = f"{tmp_path}/nowhere.parquet"
    with pytest.raises(SettingError, match=f"^eval={path}: there is no such file$"):
        read_rows(path, given_as="eval")


def test_unlabelled_rows_need_no_golds(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    rows = [{"question": "q", "context": "c"}, {"question": " ", "context": "c"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_rows(path, labelled=False) == [{**rows[0], "answers": None}]
    with pytest.raises(SettingError, match="it has no column 'answers'"):
        read_rows(path)
    pq.write_table(pa.Table.from_pylist(rows[1:]), path)
    said = f"^unlabelled={path}: no row has a question and a context$"
    with pytest.raises(SettingError, match=said):
        read_rows(path, given_as="unlabelled", labelled=False)


def test_a_mix_takes_rows_by_their_source(tmp_path: Path) -> None:
    rows = [row(k, source) for source in ("one", "other_x", "other_y", "plain") for k in range(200)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    taken = Counter(
        each["source"]
        for each in read_rows(str(tmp_path / "rows.parquet"), {"one": 2.5, "other*": 0.3, "*x": 9})
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


def test_windows_with_part_of_a_gold_have_no_target(bert_folder: Path) -> None:
    words = [f"word{k}" for k in range(60)]
    context = " ".join(words)
    begin = context.index("word20")
    rows = [
        {
            "question": "which",
            "context": context,
            "answers": {"text": ["word20 word21"], "answer_start": [begin]},
        }
    ]
    examples = make_examples(
        rows, Tokenizer(bert_folder), max_length=64, overlap=8, max_question=16
    )
    targets = set(examples.start.tolist())
    first = int(np.flatnonzero(examples.windows.passages.char_start == begin)[0])
    for window in range(len(examples.windows)):
        start, stop = examples.windows.start[window], examples.windows.stop[window]
        if examples.start[window] >= 0:
            assert examples.start[window] == first
            assert start <= first < stop
        elif examples.start[window] == NULL:
            assert not start <= first < stop
    assert NULL in targets
    assert targets <= {ABSENT, NULL, first}


def test_an_epoch_holds_every_window_once(bert_folder: Path) -> None:
    rows = read_rows(str(SAMPLE))[:50]
    examples = make_examples(rows, Tokenizer(bert_folder), 128, 32, 32)
    usable = np.arange(len(examples.windows))
    batches = plan_epoch(examples, usable, 1000, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == usable.tolist()
    lengths = examples.windows.lengths
    for batch in batches:
        assert len(set(examples.group[batch])) == 1 or len(batch) * lengths[batch].max() <= 1000
