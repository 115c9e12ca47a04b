"""Control how much of the memory that a process has freed glibc keeps.

benchmarks/LOG.md has the figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os

_log = logging.getLogger("spanmill")

_MALLOC = {-1: 2**29, -2: 2**26, -3: 2**25}
"""Parameter of glibc's `mallopt` -> its value in bytes.

-1  M_TRIM_THRESHOLD, more than a batch takes
-2  M_TOP_PAD, the size of a thread's heap; glibc returns no memory to the system below it
-3  M_MMAP_THRESHOLD, the largest value that glibc accepts
"""


def keep_memory() -> None:
    """Make glibc keep the memory that a batch frees for the next one.

    By default it returns a few megabytes to the system after every layer and gets them back page by
    page. No-op if the user has set malloc's parameters, or with another C library.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        _log.info("memory: this C library has no mallopt, every batch allocates from the system")
        return
    for setting, size in _MALLOC.items():
        mallopt(setting, size)


def return_memory() -> None:
    """Make glibc return the memory that it keeps free to the system; no-op with another C library.

    Batches of many shapes, whose tensors are not freed in the order in which they were allocated,
    leave gaps that no later tensor fits, so that a process grows to several times what it uses.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
