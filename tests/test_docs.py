"""What the manual says to type is typed; links in the repository's own pages lead somewhere. `make docs` builds the site."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import convert, show
from tests.runs import run

HOUSE = Path(__file__).parent.parent

RUN_PAGES = ("tutorial", "convert", "show", "migration", "beam")
"""Pages whose `python` and `sh` blocks are run, in order, in one empty folder; `console` and `text` blocks are not."""

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "python run_pipeline.py": lambda arguments: run(*arguments),
    "python -m pipeline.show": show.main,
    "python -m pipeline.convert": convert.main,
}

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(language, title, content) of the fenced blocks of a page."""
    return BLOCK.findall(page.read_text("utf-8"))


def run_line(line: str) -> None:
    command = next((known for known in COMMANDS if line.startswith(f"{known} ")), None)
    assert command, f"{line!r} is no command of ours: a block that can't be run here is `console`, not `sh`"
    assert COMMANDS[command](shlex.split(line[len(command) :])) == 0, line


@pytest.mark.parametrize("name", RUN_PAGES)
def test_what_a_page_says_to_type_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    page = HOUSE / "docs" / f"{name}.md"
    scope: dict[str, Any] = {}
    done = 0
    for language, title, content in blocks(page):
        if title:
            Path(title).write_text(content, "utf-8")
        elif language == "python":
            exec(compile(content, str(page), "exec"), scope)
            done += 1
        elif language == "sh":
            for line in filter(None, content.splitlines()):
                run_line(line)
                done += 1
    assert done


def test_python_in_the_readme_works():
    code = [content for language, _, content in blocks(HOUSE / "README.md") if language == "python"]
    assert code
    for each in code:
        exec(compile(each, "README.md", "exec"), {})


@pytest.mark.parametrize("name", ["tutorial", "convert"])
def test_what_a_page_says_that_convert_prints_is_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Output that no model has to do with."""
    monkeypatch.chdir(tmp_path)
    told = ""
    checked = 0
    for language, title, content in blocks(HOUSE / "docs" / f"{name}.md"):
        if title:
            Path(title).write_text(content, "utf-8")
        elif language == "sh" and "convert import" in content:
            run_line(content.strip().splitlines()[0])
            told = capsys.readouterr().out.replace(f"{tmp_path}/", "")
        elif language == "text" and told:
            assert content == told
            checked += 1
            told = ""
    assert checked


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_repository_lead_somewhere(page: str):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (HOUSE / page).read_text("utf-8"))
    assert [link for link in links if not re.match(r"\w+:", link) and not (HOUSE / link).exists()] == []
