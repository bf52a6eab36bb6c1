"""Counts the instructions of the hot path with callgrind, and compares them with baseline.json.

Takes the program hot_path; counts what runs inside the eval callback in one decode of each of its scenarios, and prints
the counts beside the committed ones. Exit code 1 where one has grown by more than 1 %. Counts do not depend on how busy
the machine is, but on the compiler and on the kernels: valgrind knows no AVX-512, so that AVX2 is counted everywhere.
What a scenario costs in time is another matter: hot_path SCENARIO --time.

    python3 native/counts/counts.py HOT_PATH [--write] [SCENARIO ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BASELINE = Path(__file__).with_name("baseline.json")
KERNELS = "avx2"
TOLERANCE = 0.01


def count(program: str, scenario: str) -> int:
    """Instructions inside the eval callback."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind",
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=counted_callback",
            f"--callgrind-out-file={folder}/out",
            program,
            scenario,
        ]
        run = subprocess.run(command, env={**os.environ, "EDGE_EDS_KERNELS": KERNELS}, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or not found:
        raise SystemExit(f"{scenario} could not be counted (exit code {run.returncode}):\n{run.stderr}")
    return int(found[1])


def compiler_of(program: str) -> str:
    """As the program itself was told by it."""
    return subprocess.run([program, "--compiler"], check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("hot_path", help="the program, as CMake built it")
    parser.add_argument("scenarios", nargs="*", help="all by default")
    parser.add_argument("--write", action="store_true", help="keep the counts as the new baseline")
    options = parser.parse_args()

    listed = subprocess.run([options.hot_path, "--list"], check=True, capture_output=True, text=True).stdout.split()
    unknown = [name for name in options.scenarios if name not in listed]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are {', '.join(listed)}")
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    committed: dict[str, int] = baseline.get("instructions", {})
    compiler = compiler_of(options.hot_path)
    if baseline and baseline["compiler"] != compiler:
        print(f"The baseline was counted with {baseline['compiler']}, this is {compiler}: expect differences.")

    counts = {}
    grown = []
    print(f"{'scenario':<20} {'instructions':>14} {'baseline':>14} {'ratio':>7}")
    for name in options.scenarios or listed:
        counts[name] = count(options.hot_path, name)
        before = committed.get(name)
        ratio = counts[name] / before if before else None
        if ratio and ratio > 1 + TOLERANCE:
            grown.append(name)
        print(f"{name:<20} {counts[name]:>14,} {before or 0:>14,} {f'{ratio:.3f}' if ratio else 'new':>7}", flush=True)

    if options.write:
        instructions = {name: n for name, n in {**committed, **counts}.items() if name in listed}
        kept = {"compiler": compiler, "kernels": KERNELS, "instructions": instructions}
        BASELINE.write_text(json.dumps(kept, indent=2) + "\n")
    elif grown:
        print(f"More than the baseline: {', '.join(grown)}. If that is meant, keep it: --write.", file=sys.stderr)
    return 1 if grown and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
