"""Corpus text on a terminal is shown and never interpreted."""

from __future__ import annotations

import pytest

from pipeline.looks.terminal import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\x9bc", "a\\x9bc"),
        ("a\tb\r\nc\x0b", "a b  c\\x0b"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("é 灯台 مرحبا 🌊", "é 灯台 مرحبا 🌊"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(text: str, shown: str):
    assert one_line(text) == shown


def test_lines_stay_lines_where_they_may():
    assert printable("Straße 灯台 🌊\tb\nc\x1b[2J") == "Straße 灯台 🌊\tb\nc\\x1b[2J"
