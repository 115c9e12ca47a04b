"""Text of a corpus on a terminal: shown, never obeyed."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"

_BLANKS = str.maketrans("\n\r\t", "   ")


def printable(text: str) -> str:
    """The text without anything that a terminal would obey: controls, escapes and changes of direction are spelt out.

    Lines stay lines; joiners stay, without them emoji and some scripts fall apart.
    """
    kept = _JOINERS + "\n\t"
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode()
        for each in text
    )


def one_line(text: str) -> str:
    """The same on one line: tabs and line ends become blanks."""
    return printable(text.translate(_BLANKS))
