"""Rows of any bytes through all steps: each keeps its place, none changes another."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoint import LocalFolder
from model.reading.decoding import Decoding
from model.reading.reader import CheckpointReader
from model.reading.tokenizer import Tokenizer
from model.reading.windows import WindowLimits
from tests.checkpoints import ARCHITECTURES
from tests.runs import EXACT
from tests.transforms.fakes import claimed, make_chunk
from transforms.decode_answers import decode_answers
from transforms.make_windows import make_windows
from transforms.predict_spans import predict_spans
from transforms.records import OutputColumns
from transforms.write_chunk import write_outcome

LIMITS = WindowLimits(max_length=64, overlap=16, max_question=16, max_windows=6)
DECODING = Decoding(n_best=3, max_answer_length=8)

# Lone surrogates as bytes, NUL, bytes that are not text, and null.
TEXTS = st.one_of(
    st.none(),
    st.text(max_size=60).map(str.encode),
    st.text(alphabet=st.characters(), max_size=30).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    ),
    st.text(alphabet="\x00 \t\n\u200b\u200d\u0301\ufeff\U000e0001aA.🌊灯", max_size=30).map(
        str.encode
    ),
    st.binary(max_size=30),
)


@pytest.fixture(scope="module", params=["bert", "roberta", "albert"])
def reader(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CheckpointReader:
    (architecture,) = (each for each in ARCHITECTURES if each.name == request.param)
    return CheckpointReader(
        LocalFolder(str(architecture.build(tmp_path_factory.mktemp(request.param)))), device="cpu"
    )


def annotated(rows: list[tuple[bytes | None, bytes | None]], reader: CheckpointReader) -> pa.Table:
    """Return a chunk of these rows after every step, reopened from its part."""
    questions, contexts = (
        pa.array(list(column), pa.binary()).view(pa.string()) for column in zip(*rows, strict=True)
    )
    chunk = make_chunk(pa.table({"question": questions, "context": contexts}))
    windowed = make_windows(chunk, reader.tokenizer(), LIMITS)
    answered = decode_answers(predict_spans(windowed, reader, DECODING, 512), DECODING)
    with tempfile.TemporaryDirectory() as folder:
        write_outcome(
            chunk, answered.outcomes[0], claimed(folder), OutputColumns(("question", "context"))
        )
        written = pq.ParquetFile(Path(folder) / "parts" / chunk.spec.part).read()
        rejections = Path(folder) / "rejections" / chunk.spec.part
        rejected = (
            pq.ParquetFile(rejections).read().column("row").to_pylist()
            if rejections.exists()
            else []
        )
    assert rejected == [
        row
        for row, status in enumerate(written.column("status").to_pylist())
        if status == "rejected"
    ]
    return written


GOOD = (
    b"Who kept the lamp?",
    "In the year 1801 the keeper Ada lit lamp 1. The sea 🌊 was calm.".encode(),
)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), data=st.data())
def test_every_row_has_its_place_and_good_rows_keep_their_answers(
    reader: CheckpointReader, rows: list[tuple[bytes | None, bytes | None]], data: st.DataObject
):
    place = data.draw(st.integers(0, len(rows)))
    written = annotated([*rows[:place], GOOD, *rows[place:]], reader)
    assert written.num_rows == len(rows) + 1
    assert written.column("question").cast(pa.binary()).to_pylist() == [
        q for q, _ in [*rows[:place], GOOD, *rows[place:]]
    ]
    alone = annotated([GOOD], reader).select(EXACT).to_pylist()[0]
    assert written.slice(place, 1).select(EXACT).to_pylist()[0] == alone
    contexts = written.column("context").cast(pa.binary()).to_pylist()
    for row, context in zip(written.select(EXACT).to_pylist(), contexts, strict=True):
        if row["status"] == "rejected":
            assert row["reason"]
        else:
            assert row["answer_text"] == context.decode()[row["answer_start"] : row["answer_end"]]


def test_a_question_of_a_hundred_thousand_tokens_and_a_context_of_a_megabyte(
    reader: CheckpointReader,
):
    endless = b"who " * 100_000
    written = (
        annotated([(endless, GOOD[1]), (GOOD[0], b"the lamp " * 110_000), GOOD], reader)
        .select(EXACT)
        .to_pylist()
    )
    assert written[0]["status"] == "answered"
    assert written[0]["question_tokens_cut"] >= 99_000
    assert (written[1]["status"], written[1]["reason"]) == ("rejected", "too_many_windows")
    assert written[2] == annotated([GOOD], reader).select(EXACT).to_pylist()[0]


def test_texts_on_which_the_tokenizer_panics(
    reader: CheckpointReader, monkeypatch: pytest.MonkeyPatch
):
    encode = Tokenizer._encode

    def fragile(self: Tokenizer, texts: Sequence[str], *more: Any) -> Any:
        if any("storm" in text for text in texts):
            raise type("PanicException", (BaseException,), {})("index out of bounds")
        return encode(self, texts, *more)

    other = (b"Who lit it?", b"Ada lit the lamp.")
    good = annotated([GOOD, other], reader).select(EXACT).to_pylist()
    monkeypatch.setattr(Tokenizer, "_encode", fragile)
    rows = [GOOD, (b"A storm?", GOOD[1]), (GOOD[0], b"The storm came."), other]
    written = annotated(rows, reader).select(EXACT).to_pylist()
    assert [written[0], written[3]] == good
    for row in written[1:3]:
        assert (row["status"], row["reason"]) == ("rejected", "tokenizer_error")


@pytest.mark.torture
def test_a_context_of_ten_megabytes(reader: CheckpointReader):
    written = (
        annotated([GOOD, (GOOD[0], b"the lamp " * 1_165_000)], reader).select(EXACT).to_pylist()
    )
    assert (written[1]["status"], written[1]["reason"]) == ("rejected", "too_many_windows")
    assert written[0] == annotated([GOOD], reader).select(EXACT).to_pylist()[0]
