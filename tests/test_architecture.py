"""The rules of the architecture: layers, one file for fsspec, one file per transform."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import HOUSE

LAYERS = ("model", "transforms", "pipeline")
FILES = [path for layer in LAYERS for path in sorted((HOUSE / layer).rglob("*.py"))] + [
    HOUSE / "run_pipeline.py"
]


def imported(path: Path) -> Iterator[str]:
    """Yield the names of all modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(folder: str, package: str) -> list[str]:
    """Return the files of a folder that import a package."""
    return [
        str(path.relative_to(HOUSE))
        for path in sorted((HOUSE / folder).rglob("*.py"))
        if any(f"{name}.".startswith(f"{package}.") for name in imported(path))
    ]


def transforms_of(path: Path) -> list[str]:
    """Return the names of the PTransform classes of a file."""
    classes = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    return [
        node.name
        for node in classes
        if any(
            "PTransform" in ast.unparse(base) or "ChunkStep[" in ast.unparse(base)
            for base in node.bases
        )
    ]


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def test_the_tree_that_is_checked_is_the_real_one():
    assert len(FILES) > 20
    assert "apache_beam" in {
        name.split(".")[0] for name in imported(HOUSE / "transforms" / "chunk_step.py")
    }


@pytest.mark.parametrize(
    ("layer", "package"),
    [
        *(
            ("model", package)
            for package in ("apache_beam", "fsspec", "transforms", "pipeline", "run_pipeline")
        ),
        *(("transforms", package) for package in ("pipeline", "run_pipeline")),
        ("pipeline", "run_pipeline"),
        *((layer, "tests") for layer in LAYERS),
    ],
)
def test_imports_go_one_way(layer: str, package: str):
    assert importers(layer, package) == []


def test_the_wings_of_the_model_show_what_reads_what_audits_and_what_trains():
    assert importers("model/reading", "model.audit") == []
    assert importers("model/reading", "model.training") == []
    assert importers("model/audit", "model.training") == []


def test_backends_import_nothing_of_ours():
    found = {
        (path.name, name)
        for path in sorted((HOUSE / "model" / "backends").glob("*.py"))
        for name in imported(path)
        if name.split(".")[0] in LAYERS and not name.startswith("model.backends.")
    }
    assert found == set()


def test_one_file_knows_fsspec():
    users = [
        str(path.relative_to(HOUSE))
        for path in FILES
        if any(name.split(".")[0] == "fsspec" for name in imported(path))
    ]
    assert users == ["transforms/storage.py"]


def test_every_transform_stands_in_the_file_of_its_name():
    steps = {
        name: path.stem
        for path in (HOUSE / "transforms").glob("*.py")
        for name in transforms_of(path)
    }
    assert {
        "PlanChunks",
        "ReadChunk",
        "MakeWindows",
        "PredictSpans",
        "DecodeAnswers",
        "WriteChunk",
    } <= steps.keys()
    assert steps == {name: snake_case(name) for name in steps}


def test_builders_define_no_step_of_their_own():
    """A private composite may wrap steps, but a step for others belongs to transforms/."""
    public = [
        name
        for path in (HOUSE / "pipeline").rglob("*.py")
        for name in transforms_of(path)
        if not name.startswith("_")
    ]
    assert public == []


def test_every_file_of_transforms_and_pipeline_has_its_tests():
    wanted = {
        f"tests/{path.relative_to(HOUSE).parent}/test_{path.stem}.py"
        for layer in ("transforms", "pipeline")
        for path in (HOUSE / layer).rglob("*.py")
        if path.parent.name != "report" and path.stem != "__init__"
    }
    missing = {name for name in wanted if not (HOUSE / name).is_file()}
    assert missing == set()


@pytest.mark.parametrize(
    "path", sorted((HOUSE / "benchmarks").glob("*.py")), ids=lambda path: path.stem
)
def test_benchmarks_import_what_there_is(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Most are run by hand only, so that nothing else would notice a moved name."""
    monkeypatch.syspath_prepend(str(HOUSE))  # benchmarks/ is not an installed package
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in (*LAYERS, "tests", "benchmarks")
        ):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
