"""RunFiles: names every file that a run writes into its output folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transforms.records import rows_of_part
from transforms.storage import join, lies_below, list_times, real_path
from transforms.temporary import TEMPORARY


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one output folder: constants are names in the folder, properties are paths."""

    RUN: ClassVar[str] = "run.json"
    """The identity of the run, beginning with its fingerprint. An output has one identity."""
    MANIFEST: ClassVar[str] = "manifest.json"
    """The result of the run; written last."""
    AUDIT: ClassVar[str] = "audit.json"
    REPORT: ClassVar[str] = "report.html"
    RELABEL_CSV: ClassVar[str] = "relabel.csv"
    RELABEL_JSON: ClassVar[str] = "relabel.json"
    DUPLICATES: ClassVar[str] = "duplicates.json"
    COMPARISON: ClassVar[str] = "comparison.json"
    PARTS: ClassVar[str] = "parts"
    """Folder with a file per chunk, one row per input row."""
    REJECTIONS: ClassVar[str] = "rejections"
    """Folder with a file per chunk that has rejected rows."""
    COPIES: ClassVar[str] = "copies"
    """Folder with the Parquet copies of input files in other formats."""
    BESIDE: ClassVar[str] = "audit"
    """Folder of the audit of `annotate --audit`."""

    ALL: ClassVar[tuple[str, ...]] = (
        *(RUN, MANIFEST, AUDIT, REPORT, RELABEL_CSV, RELABEL_JSON, DUPLICATES, COMPARISON),
        *(PARTS, REJECTIONS, COPIES, TEMPORARY, BESIDE),
    )
    """In the order in which `--overwrite` removes them: without run.json, no worker can write."""

    folder: str

    @property
    def run(self) -> str:
        return join(self.folder, self.RUN)

    @property
    def manifest(self) -> str:
        return join(self.folder, self.MANIFEST)

    @property
    def audit(self) -> str:
        return join(self.folder, self.AUDIT)

    @property
    def report(self) -> str:
        return join(self.folder, self.REPORT)

    @property
    def duplicates(self) -> str:
        return join(self.folder, self.DUPLICATES)

    @property
    def comparison(self) -> str:
        return join(self.folder, self.COMPARISON)

    @property
    def beside(self) -> str:
        return join(self.folder, self.BESIDE)

    def holds(self, path: str) -> bool:
        """Return whether `--overwrite` may remove a file or folder, whatever links lead to it."""
        return any(
            real_path(path) == real_path(each) or lies_below(path, each)
            for each in (join(self.folder, name) for name in self.ALL)
        )

    def part(self, name: str) -> str:
        """Return the path of a part."""
        return join(self.folder, self.PARTS, name)

    def rejection(self, name: str) -> str:
        """Return the path of the rejections of the part of this name."""
        return join(self.folder, self.REJECTIONS, name)

    def copy(self, name: str) -> str:
        """Return the path of the Parquet copy of an input file."""
        return join(self.folder, self.COPIES, name)

    def part_names(self) -> list[str]:
        """Return the names of all parts, in the order of the input."""
        return sorted(self.part_times())

    def part_times(self) -> dict[str, float]:
        """Return the names of all parts with the times of their commits, in seconds since 1970."""
        return _parts_in(join(self.folder, self.PARTS))

    def rejection_names(self) -> list[str]:
        """Return the names of all files of rejections, in the order of the input."""
        return sorted(_parts_in(join(self.folder, self.REJECTIONS)))


def _parts_in(folder: str) -> dict[str, float]:
    """Return the files of a folder that have names of parts, with their times of modification.

    File managers and other tools leave files of their own, such as `.DS_Store`.
    """
    return {name: time for name, time in list_times(folder).items() if _is_part(name)}


def _is_part(name: str) -> bool:
    """Return whether a file has the name of a part."""
    try:
        # On some disks, macOS keeps a file `._NAME` for each file.
        return not name.startswith(".") and rows_of_part(name) >= 0
    except (ValueError, IndexError):
        return False
