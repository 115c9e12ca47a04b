"""CSV for spreadsheets: no formulas, what Excel needs, and what other programs save."""

from __future__ import annotations

import pytest

from transforms.spreadsheets import SpreadsheetError, csv_bytes, csv_rows, guard, unguard


def test_a_text_is_what_it_was_after_guard_and_back():
    for text in ("", "a", "'tis", "''", "'=x", "=x", "x=", " =x"):
        assert unguard(guard(text)) == text
        assert not guard(text).startswith(("=", "+", "-", "@"))


def test_a_file_begins_with_the_mark_that_excel_needs_and_comes_back():
    rows = [{"a": 1, "b": 'x, "y";\nz'}, {"a": None, "b": "🌊"}]
    content = csv_bytes(("a", "b"), rows)
    assert content.startswith(b'\xef\xbb\xbf"a","b"\r\n')
    read = list(csv_rows(content.decode("utf-8-sig"), ("a",), "x.csv"))
    assert read == [
        ("line 3", {"a": "1", "b": 'x, "y";\nz'}),
        ("line 4", {"a": "", "b": "🌊"}),
    ]


def test_semicolons_separate_where_the_comma_is_the_decimal_sign():
    assert [row for _, row in csv_rows("a;b\n1,5;2\n3\n", ("a",), "x.csv")] == [
        {"a": "1,5", "b": "2"},
        {"a": "3", "b": ""},
    ]


def test_tabs_and_a_name_with_a_comma():
    expected = [{"a": "1", "b": "2", "my, note": "3,4"}]
    for delimiter in (";", "\t"):
        text = delimiter.join(("a", "b", "my, note")) + "\n" + delimiter.join(("1", "2", "3,4"))
        assert [row for _, row in csv_rows(text, ("a",), "x.csv")] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column 'c': it is neither a x.csv nor a Label Studio export"),
        ("", "no column 'c'"),
        ('c\n"1', "line 1: unexpected end of data"),
    ],
)
def test_another_file_is_refused(text: str, message: str):
    with pytest.raises(SpreadsheetError, match=message):
        list(csv_rows(text, ("c",), "x.csv"))
