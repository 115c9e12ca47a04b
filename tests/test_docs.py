"""Executes the manual's commands, and checks the links of the repository's own pages.

`make docs` builds the site.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from model import SpanReader
from model.audit.columns import AUDIT_COLUMNS
from model.checkpoint import Bundled
from model.columns import Column
from model.reading.columns import ANSWER_COLUMNS
from pipeline import convert, sample, show, watch
from pipeline.bundled import SAMPLE
from tests.runs import HOUSE, run

RUN_PAGES = (
    "tutorial",
    "questions",
    "convert",
    "show",
    "watch",
    "review",
    "places",
    "migration",
    "posterior",
    "beam",
    "runners",
    "label_errors compare",
)
"""Pages whose `python` and `sh` blocks are run in order, in an empty folder.

`console` and `text` blocks are not run. Pages in one entry share a folder.
"""

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "python run_pipeline.py": lambda arguments: run(*arguments),
    "python -m pipeline.show": show.main,
    "python -m pipeline.watch": watch.main,
    "python -m pipeline.sample": sample.main,
    "python -m pipeline.convert": convert.main,
}

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Return (language, title, content) of the fenced blocks of a page."""
    return BLOCK.findall(page.read_text("utf-8"))


def run_line(line: str, *more: str) -> None:
    command = next((known for known in COMMANDS if line.startswith(f"{known} ")), None)
    assert command, (
        f"{line!r} is no command of ours: a block that can't be run here is `console`, not `sh`"
    )
    assert COMMANDS[command]([*shlex.split(line[len(command) :]), *more]) == 0, line


def test_no_page_is_forgotten():
    pages = {
        page.stem
        for page in (HOUSE / "docs").rglob("*.md")
        if {"python", "sh"} & {block[0] for block in blocks(page)}
    }
    assert pages == set(" ".join(RUN_PAGES).split())


@pytest.mark.parametrize("names", RUN_PAGES)
def test_what_a_page_says_to_type_works(
    names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in names.split():
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
        assert done, name


def test_commands_in_the_readme_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They run on the first rows of the sample, with the bundled reader as the checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name, target in (
        ("data/a.parquet", SAMPLE),
        ("gold/a.parquet", SAMPLE),
        ("path/to/checkpoint", Bundled().folder()),
    ):
        Path(name).parent.mkdir(parents=True)
        Path(name).symlink_to(target)
    makefile = (HOUSE / "Makefile").read_text("utf-8")
    lines = [
        line
        for language, _, content in blocks(HOUSE / "README.md")
        if language == "sh"
        for line in content.splitlines()
    ]
    assert len(lines) > 5
    for line in lines:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line
        elif " compare " in line:
            shutil.copytree("audit", "audit_of_another_model")
            run_line(line)
        else:
            run_line(line, *(["--limit=3"] if " --input " in line else []))


def test_python_in_the_readme_works():
    code = [content for language, _, content in blocks(HOUSE / "README.md") if language == "python"]
    assert code
    for each in code:
        exec(compile(each, "README.md", "exec"), {})


def test_the_pipeline_on_bigquery_is_a_graph():
    """Beam's transforms check the tables' names and need their client libraries, no connection."""
    pytest.importorskip("apitools", reason="BigQuery's clients (apache-beam[gcp]) are missing")
    (code,) = [each[2] for each in blocks(HOUSE / "docs" / "beam.md") if each[1]]
    scope: dict[str, Any] = {"__name__": "answer_pages"}
    exec(code, scope)
    assert set(scope["NAMES"]) <= {"page", *(column.name for column in ANSWER_COLUMNS)}
    pipeline = beam.Pipeline(options=PipelineOptions(["--temp_location=gs://my-bucket/tmp"]))
    scope["answer_pages"](pipeline, SpanReader.load())
    graph = pipeline.to_runner_api()
    (root,) = graph.root_transform_ids
    steps = graph.components.transforms
    assert [steps[each].unique_name for each in steps[root].subtransforms] == [
        "ReadFromBigQuery",
        "Annotate",
        "ChooseColumns",
        "WriteToBigQuery",
    ]


@pytest.mark.parametrize("name", ["tutorial", "convert"])
def test_what_a_page_says_that_convert_prints_is_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """This output does not depend on the model."""
    monkeypatch.chdir(tmp_path)
    told = ""
    checked = 0
    for language, title, content in blocks(HOUSE / "docs" / f"{name}.md"):
        if title:
            Path(title).write_text(content, "utf-8")
        elif language == "sh" and "convert import" in content:
            run_line(content.strip().splitlines()[0])
            told = capsys.readouterr().out
        elif language == "text" and told:
            assert content == told
            checked += 1
            told = ""
    assert checked


def test_the_walk_of_one_chunk_is_what_a_run_records():
    walk = runpy.run_path(str(HOUSE / "docs" / "figures" / "walk.py"))
    page = walk["PAGE"].read_text("utf-8")
    assert f"python run_pipeline.py {walk['COMMAND']} --output out\n" in page
    assert walk["filled"](page, run) == page, "run: python docs/figures/walk.py"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_repository_lead_somewhere(page: str):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (HOUSE / page).read_text("utf-8"))
    assert [
        link for link in links if not re.match(r"\w+:", link) and not (HOUSE / link).exists()
    ] == []


NAMED = re.compile(
    r"(?<![\w./])((?:benchmarks|deploy|docs|model|pipeline|tests|transforms)/[\w./-]*\w)"
)
MODULE = re.compile(r"python -m ((?:benchmarks|model|pipeline)[\w.]*)")
TEST = re.compile(r"`(test_\w+\.py)")
FOLDERS = ("benchmarks", "deploy", "docs", "model")


def test_files_that_pages_name_exist():
    """They are commands behind figures, tests behind guarantees, and pages outside the site."""
    pages = [HOUSE / name for name in ("CONTRIBUTING.md", "README.md", "SECURITY.md")]
    pages += [page for name in FOLDERS for page in (HOUSE / name).rglob("*.md")]
    tests = {path.name for path in (HOUSE / "tests").rglob("test_*.py")}
    missing, named = [], 0
    for page in pages:
        text = page.read_text("utf-8")
        modules = [f"{module.replace('.', '/')}.py" for module in MODULE.findall(text)]
        files = NAMED.findall(text) + modules
        missing += [(page.name, name) for name in files if not (HOUSE / name).exists()]
        missing += [(page.name, name) for name in TEST.findall(text) if name not in tests]
        named += len(files)
    assert named > 100
    assert missing == []


@pytest.mark.parametrize(
    ("stage", "columns"), [("annotate", ANSWER_COLUMNS), ("audit", AUDIT_COLUMNS)]
)
def test_the_manual_has_every_column_once(stage: str, columns: Sequence[Column]):
    hooks = runpy.run_path(str(HOUSE / "docs" / "hooks.py"))
    page = (HOUSE / "docs" / "reference" / "columns.md").read_text("utf-8")
    made = hooks["on_page_markdown"](page)
    section = made.split(f"## {stage}\n")[1].split("\n## ")[0]
    lines = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    names = [re.findall(r"`(\w+)`", cells[1]) for cells in lines]
    assert [name for each in names for name in each] == [column.name for column in columns]
    assert "<!--" not in made
    types = {cells[2].strip() for cells in lines}
    assert types <= {
        "string",
        "int32",
        "float32",
        "float64",
        "list of struct",
        "list of string",
        "binary(16)",
    }
    assert all(len(cells) == 5 and cells[3].strip() for cells in lines)
