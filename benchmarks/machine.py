"""Describe the machine and the versions that figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")


def describe() -> dict[str, Any]:
    """Return processor, memory, accelerator and versions; no names of hosts or folders."""
    import torch

    processor, flags = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        facts = {name.strip(): value.strip() for name, _, value in lines}
        processor, flags = facts.get("model name", processor), facts.get("flags", "")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags.split()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "apache-beam", "pyarrow")},
    }
