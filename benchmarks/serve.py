"""What every measured method does: get ready, then run once for each line that the driver sends.

Only the standard library: methods run in virtual environments of their own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(run: Callable[[], dict[str, float]]) -> None:
    """Answers {} when it is ready, then after each run its figures with "seconds" and "peak_mib".

    `run` returns figures of its own; a "seconds" among them stands for the wall time of the call.
    """
    out, sys.stdout = (
        sys.stdout,
        sys.stderr,
    )  # what libraries print must not get between the answers
    print("{}", file=out, flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        figures = {"seconds": 0.0, **run()}
        figures["seconds"] = figures["seconds"] or time.perf_counter() - begun
        figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures), file=out, flush=True)
