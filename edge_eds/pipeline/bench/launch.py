"""A program's start, measured from a small process: seconds to its first byte, and the most memory that it held.

Run as a script: `python launch.py COMMAND...` prints one line of JSON. Of its own, because a child's memory is counted
from what its parent held when it was started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any


def launch(command: list[str]) -> dict[str, Any]:
    """Run a command to its end: seconds, peak_bytes (None where the system does not tell), code, and its last line."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - start
        said = process.communicate()[1].decode(errors="replace").strip()
    return {
        "seconds": seconds,
        "peak_bytes": _peak_bytes(),
        "code": process.returncode,
        "printed": bool(first),
        "last_line": said.splitlines()[-1] if said else "",
    }


def _peak_bytes() -> int | None:
    """Of the one child that this process had."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    sys.stdout.write(json.dumps(launch(sys.argv[1:])) + os.linesep)
