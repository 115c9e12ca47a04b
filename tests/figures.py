"""Compares figures that were computed in two ways."""

from __future__ import annotations

from typing import Any

import pytest


def same_figures(found: Any, expected: Any, path: str = "", sums: float = 1e-9) -> None:
    """Assert that figures are equal: sums within a tolerance of `sums`, all others exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for name in expected:
            same_figures(found[name], expected[name], f"{path}.{name}", sums)
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            same_figures(one, other, f"{path}[{k}]", sums)
    elif isinstance(expected, float) and path.rsplit(".", 1)[-1] not in (
        "min",
        "max",
        "p50",
        "p90",
        "p95",
        "p99",
    ):
        assert found == pytest.approx(expected, rel=sums, abs=sums), path
    else:
        assert found == expected, path
