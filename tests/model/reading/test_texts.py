from __future__ import annotations

import pyarrow as pa
import pytest

from model.reading.texts import each_text, each_value, read_texts

STRING_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.string_view(),
]


@pytest.mark.parametrize("dtype", STRING_TYPES, ids=str)
def test_texts_and_problems_of_every_string_type(dtype: pa.DataType) -> None:
    values = ["one", None, "", " \t\n", "\u00a0\u3000", "zwei 👩\u200d👧", "\u200b", "one"]
    texts, problems = read_texts(pa.chunked_array([pa.array(values).cast(dtype)]))
    assert texts == ["one", "", "", "", "", "zwei 👩\u200d👧", "\u200b", "one"]
    assert problems == {1: "missing", 2: "blank", 3: "blank", 4: "blank"}


def raw_strings(values: list[bytes | None], dtype: pa.DataType) -> pa.Array:
    """Strings whose bytes nobody has checked, as a Parquet file may hold them."""
    binary = pa.array(values, pa.large_binary() if dtype == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(dtype, len(values), binary.buffers(), binary.null_count)


@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_bytes_that_are_no_utf8_spoil_their_row_only(dtype: pa.DataType, encoded: bool) -> None:
    values = [b"one", b"\xff\xfe", None, b"", "zw\u00f6lf".encode(), b"cut \xe2\x82"]
    array: pa.Array = raw_strings(values, dtype)
    if encoded:
        places = pa.array(
            [None if value is None else k for k, value in enumerate(values)], pa.int32()
        )
        array = pa.DictionaryArray.from_arrays(
            places, raw_strings([value or b"" for value in values], dtype)
        )
    texts, problems = read_texts(pa.chunked_array([array]))
    assert texts == ["one", "", "", "", "zwölf", ""]
    assert problems == {1: "not_utf8", 2: "missing", 3: "blank", 5: "not_utf8"}


def test_columns_in_several_chunks_and_empty_ones() -> None:
    column = pa.chunked_array([["one", None], [], ["two", ""]], pa.string())
    assert read_texts(column) == (["one", "", "two", ""], {1: "missing", 3: "blank"})
    assert read_texts(pa.chunked_array([], pa.string())) == ([], {})
    assert read_texts(pa.chunked_array([[None, None]], pa.string())) == (
        ["", ""],
        {0: "missing", 1: "missing"},
    )


def test_equal_texts_are_one_object() -> None:
    column = pa.chunked_array([["a b", None, "c d"], ["a b"]], pa.string())
    texts = each_text(column)
    assert texts == each_value(column)
    assert texts[0] is texts[3]
