"""The wheel in a clean environment, next to packages with names like `model` and `pipeline`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.runs import HOUSE, examples, read_parts, write_input

pytestmark = pytest.mark.slow


def shell(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def pip(*arguments: str | Path, cwd: Path) -> None:
    done = shell(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("model", "transforms", "pipeline", "tests", "benchmarks", "docs"):
        shutil.copytree(
            HOUSE / name, folder / "house" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("run_pipeline.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOUSE / name, folder / "house")
    pip(
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        folder / "house",
        cwd=folder,
    )
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clean virtual environment with the wheel.

    Its dependencies come from this environment, whose other packages are hidden.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = site_packages(folder)
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip("--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", wheel, cwd=folder)
    return folder


def site_packages(environment: Path) -> Path:
    (packages,) = environment.glob("lib/python*/site-packages")
    return packages


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a user's working directory with its own model, transforms and pipeline."""
    (tmp_path / "model.py").write_text("raise SystemExit('a model was trained by accident')")
    for name in ("transforms", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a stranger was run')")
    write_input(tmp_path / "rows.parquet", examples(3))
    return tmp_path


def test_the_wheel_holds_what_is_ours_and_no_tests(wheel: Path):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    layers = ("model", "transforms", "pipeline")
    ours = {
        str(path.relative_to(HOUSE))
        for layer in layers
        for path in (HOUSE / layer).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == {*ours, "run_pipeline.py"}


def test_the_constraints_pin_what_the_extras_accept():
    """`make` installs few of them: a pin that Beam refuses would first fail in an image."""
    lines = (HOUSE / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    here = {canonicalize_name(pin.name): pin for pin in pins if applies(pin)}
    for package, extra in (("apache-beam", "gcp"), ("apache-beam", "dask")):
        wanted = [Requirement(text) for text in metadata.requires(package) or ()]
        wanted = [each for each in wanted if applies(each, extra)]
        assert len(wanted) > 3
        for each in wanted:
            pin = here[canonicalize_name(each.name)]
            (version,) = (specifier.version for specifier in pin.specifier)
            assert each.specifier.contains(version), f"{pin}, but {package}[{extra}] needs {each}"


def applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_scripts_work_in_a_folder_with_packages_of_the_same_names(
    environment: Path, project: Path, bert_folder: Path
):
    """This holds in worker processes too, which Beam starts with `python -m`."""
    command = ("annotate", "--input=rows.parquet", "--output=out", f"--model={bert_folder}")
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=1")
    done = shell(environment / "bin" / "spanmill", *command, *workers, cwd=project)
    assert done.returncode == 0, done.stderr
    assert read_parts(project / "out").column("status").to_pylist() == ["answered"] * 3
    shown = shell(environment / "bin" / "spanmill-show", "out", "--id=row 1", cwd=project)
    assert shown.returncode == 0, shown.stderr
    assert "Who kept lamp 1?" in shown.stdout
    sampled = shell(environment / "bin" / "spanmill-sample", "out", cwd=project)
    assert sampled.returncode == 0, sampled.stderr
    assert "3 of 3 answers" in sampled.stdout


def test_a_stranger_that_stands_before_ours_is_named_and_not_run(environment: Path, project: Path):
    done = shell(environment / "bin" / "python", "-m", "run_pipeline", "annotate", cwd=project)
    assert done.returncode == 2
    assert f"the package 'model' is not Spanmill's, but {project}/model.py" in done.stderr
    done = shell(environment / "bin" / "spanmill", "annotate", cwd=project, PYTHONPATH=str(project))
    assert f"{project}/model.py" in done.stderr
    safe = shell(
        environment / "bin" / "python",
        "-P",
        "-m",
        "run_pipeline",
        "annotate",
        "--help",
        cwd=project,
    )
    assert safe.returncode == 0, safe.stderr


@pytest.mark.parametrize("package", ["torch", "apache_beam", "pyarrow", "transformers"])
def test_a_package_that_can_not_be_imported_is_no_finished_run(
    environment: Path, project: Path, tmp_path: Path, package: str
):
    """Python's own exit code, 1, would mean that the run has finished.

    The import of transformers comes later.
    """
    broken = tmp_path / "broken" / package
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "raise OSError('libgomp.so.1: cannot open shared object file')"
    )
    command = ("annotate", "--input=rows.parquet", "--output=out")
    done = shell(
        environment / "bin" / "spanmill", *command, cwd=project, PYTHONPATH=str(broken.parent)
    )
    assert done.returncode == (3 if package == "transformers" else 2), done.stderr
    assert ("refused: this installation is broken: OSError: libgomp.so.1" in done.stderr) == (
        package != "transformers"
    )
    assert f"broken/{package}/__init__.py" in done.stderr
    assert not (project / "out").exists()


def test_another_distribution_of_the_same_files_is_named(
    environment: Path, wheel: Path, tmp_path: Path
):
    """pip lets a second package overwrite files of the first, and deletes them with the second."""
    stranger = tmp_path / "stranger-1.0-py3-none-any.whl"
    with zipfile.ZipFile(stranger, "w") as file:
        file.writestr("transforms/__init__.py", "")
        file.writestr(
            "stranger-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n",
        )
        file.writestr(
            "stranger-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(
            "stranger-1.0.dist-info/RECORD",
            "transforms/__init__.py,,\nstranger-1.0.dist-info/RECORD,,\n",
        )
    python = environment / "bin" / "python"
    packages = site_packages(environment)

    def said() -> str:
        return shell(environment / "bin" / "spanmill", "--help", cwd=tmp_path).stderr

    pip("--python", python, "install", "--quiet", stranger, cwd=tmp_path)
    assert (
        f"the package 'transforms' is not Spanmill's, but {packages}/transforms/__init__.py"
        in said()
    )
    pip("--python", python, "uninstall", "--quiet", "--yes", "stranger", cwd=tmp_path)
    assert "the package 'transforms' is not Spanmill's, but missing" in said()
    pip(
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--force-reinstall",
        wheel,
        cwd=tmp_path,
    )
    assert said() == ""
