"""RunFiles: one class names all files of a run, and --overwrite removes all of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.runs import HOUSE
from transforms.run_files import RunFiles

PRODUCT = [
    path for layer in ("transforms", "pipeline") for path in sorted((HOUSE / layer).rglob("*.py"))
]


def test_paths_lie_in_the_folder():
    files = RunFiles("memory://bucket/out")
    assert files.run == "memory://bucket/out/run.json"
    assert files.part("a.parquet") == "memory://bucket/out/parts/a.parquet"
    assert files.rejection("a.parquet") == "memory://bucket/out/rejections/a.parquet"
    assert RunFiles(files.beside).manifest == "memory://bucket/out/audit/manifest.json"


def test_every_name_is_among_those_that_are_removed():
    names = {
        value for name, value in vars(RunFiles).items() if name.isupper() and isinstance(value, str)
    }
    assert names | {"_tmp"} == {*RunFiles.ALL}
    assert RunFiles.ALL[0] == RunFiles.RUN, "first what lets workers of another run write"


def test_it_holds_what_overwriting_may_remove(tmp_path: Path):
    files = RunFiles(f"{tmp_path}/out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for inside in ("out/relabel.csv", "out/audit", "out/parts/a.parquet", "link/audit/parts"):
        assert files.holds(f"{tmp_path}/{inside}")
    for outside in ("out", "out/first", "out/judged.csv", "out/audit2", "audit"):
        assert not files.holds(f"{tmp_path}/{outside}")


def test_parts_are_listed_in_order(tmp_path: Path):
    files = RunFiles(str(tmp_path))
    assert files.part_names() == files.rejection_names() == []
    parts = [f"000000-a-g00000-r{row:09d}-n3.parquet" for row in (0, 3)]
    # File managers, Spark and sync clients leave files of their own.
    foreign = [".DS_Store", f"._{parts[0]}", "_SUCCESS", "a.parquet", f"{parts[0]}.crc"]
    for path in (files.part, files.rejection):
        for name in (*parts[::-1], *foreign):
            Path(path(name)).parent.mkdir(exist_ok=True)
            Path(path(name)).touch()
    assert files.part_names() == sorted(files.part_times()) == files.rejection_names() == parts


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(HOUSE)))
def test_no_other_file_spells_a_name(path: Path):
    if path.name == "run_files.py":
        return
    names = {*RunFiles.ALL} - {RunFiles.BESIDE, "_tmp"}
    tree = ast.parse(path.read_text("utf-8"))
    # Names with a suffix in any text, also as the end of a path; those without in calls only,
    # because "audit" is also a stage.
    files = tuple(name for name in names if "." in name)
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not [text for text in texts if text.endswith(files) and " " not in text]
    given = [
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for argument in call.args
        if isinstance(argument, ast.Constant)
    ]
    assert not names & {value for value in given if isinstance(value, str)}
