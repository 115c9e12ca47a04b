"""Make text of a corpus safe to print on a terminal."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"

_BLANKS = str.maketrans("\n\r\t", "   ")


def printable(text: str) -> str:
    """Return the text with control characters, escapes and changes of direction spelt out.

    Line ends and tabs stay, and so do joiners, which emoji and some scripts need.
    """
    kept = _JOINERS + "\n\t"
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode()
        for each in text
    )


def one_line(text: str) -> str:
    """Return the printable text on one line: tabs and line ends become blanks."""
    return printable(text.translate(_BLANKS))
