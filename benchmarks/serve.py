"""Serve runs of a measured method: one for each line that the driver sends.

Needs only the standard library, because some methods run in separate virtual environments.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(run: Callable[[], dict[str, float]]) -> None:
    """Print {} at once, then after each run its figures, with "seconds" and "peak_mib".

    run  returns further figures; "seconds" among them replaces the wall time of the call
    """
    out, sys.stdout = sys.stdout, sys.stderr  # prints of libraries must not mix with the figures
    print("{}", file=out, flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        figures = {"seconds": 0.0, **run()}
        figures["seconds"] = figures["seconds"] or time.perf_counter() - begun
        figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures), file=out, flush=True)
