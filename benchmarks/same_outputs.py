"""Compare two outputs of the same job by two versions of the code; exit 1 if they differ.

    python -m benchmarks.same_outputs OUT_OF_ONE_VERSION OUT_OF_THE_OTHER

Parts must have equal columns, types and receipts, JSON files equal values in the same order, and
all other files equal bytes. Times, workers, retries, versions of packages and the name of the
folder are ignored.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from transforms.records import RECEIPT_KEY

IGNORED = {"seconds", "steps", "worker", "retries", "versions"}
"""Keys of receipts and manifests that differ from run to run."""


def without_ignored(value: Any) -> Any:
    """Return a JSON value without the keys that differ from run to run."""
    if isinstance(value, dict):
        return {key: without_ignored(each) for key, each in value.items() if key not in IGNORED}
    return [without_ignored(each) for each in value] if isinstance(value, list) else value


def content(folder: Path, name: str) -> Any:
    """Return the content of a file that must be equal in both outputs."""
    path = folder / name
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        receipt = (file.metadata.metadata or {}).get(RECEIPT_KEY, b"null")
        return file.read().replace_schema_metadata(None), without_ignored(json.loads(receipt))
    text = path.read_bytes().replace(str(folder).encode(), b"OUT")
    if path.suffix == ".json" and path.name != "run.json":
        return json.dumps(without_ignored(json.loads(text)))
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs=2, type=Path)
    one, other = parser.parse_args().folders
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    ]
    differing = sorted(names[0] ^ names[1])
    differing += [
        name for name in sorted(names[0] & names[1]) if content(one, name) != content(other, name)
    ]
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(names[0] & names[1])} files compared, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
