"""Write into docs/testing.md how many tests each command collects: python docs/figures/count.py"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[2]
PAGE = HOUSE / "docs" / "testing.md"

_ROW = re.compile(r"(\| `(pytest[^`]*|make cores)` \| )[\d,]+( \|)")


def collected(command: str) -> int:
    """Return how many tests a command runs or skips."""
    if command == "make cores":
        recipe = subprocess.run(
            ["make", "--dry-run", "cores"], cwd=HOUSE, check=True, capture_output=True, text=True
        ).stdout
        lines = [line for line in recipe.splitlines() if "bin/pytest " in line]
        return sum(collected(line[line.index("pytest ") :]) for line in lines)
    arguments = shlex.split(command)[1:]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *arguments],
        cwd=HOUSE,
        check=True,
        capture_output=True,
        text=True,
    )
    return sum("::" in line for line in run.stdout.splitlines())


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    page = _ROW.sub(lambda row: f"{row[1]}{collected(row[2]):,}{row[3]}", page)
    PAGE.write_text(page, "utf-8")
