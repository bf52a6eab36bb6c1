"""Counts the instructions that steering takes for a token: in the core, and as one would write it in Python.

The same 15 layers x 3 steps on random weights in the shape smollm2, once by the native hook and once by a ctypes
callback with ONNX Runtime and NumPy, each beside plain llama.cpp, with one thread. valgrind counts a whole process that
decodes a few tokens and one that decodes more; the difference is what the tokens took, and what plain decoding took of
it goes off. Needs valgrind, the installed package, and a llama.cpp without AVX-512, which valgrind does not know.

    python native/counts/peer.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.pipeline.bench.bench import random_tokens
from edge_eds.pipeline.bench.contender import Test
from edge_eds.pipeline.bench.contexts import BenchLlama
from edge_eds.pipeline.bench.lineup import Bed, lined_up
from edge_eds.pipeline.bench.shape_file import shape_file
from edge_eds.pipeline.bench.shapes import SHAPES

SHAPE, FEW, MORE = "smollm2", 2, 10
PLAIN, OURS, PEER = "plain", "steer-15x3", "python-onnx"


def count(variant: str, n_tokens: int) -> int:
    """Instructions of a process that decodes so many tokens one by one."""
    command = [
        "valgrind",
        "--tool=cachegrind",
        "--cache-sim=no",
        "--cachegrind-out-file=/dev/null",
        sys.executable,
        __file__,
        variant,
        str(n_tokens),
    ]
    environment = {
        **os.environ,
        "EDGE_EDS_KERNELS": "avx2",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", run.stderr)
    if run.returncode != 0 or not found:
        raise SystemExit(f"{variant} could not be counted (exit code {run.returncode}):\n{run.stderr}")
    return int(found[1].replace(",", ""))


def decode(variant: str, n_tokens: int) -> None:
    """What is counted."""
    (path, _), test = shape_file(SHAPES[SHAPE]), Test("tg", n_tokens)
    n_ctx = Test("tg", MORE).n_ctx
    llm = BenchLlama(path, energy=None, n_ctx=n_ctx, n_threads=1, n_threads_batch=1, verbose=False)
    bed = Bed(llm, ModelFingerprint.from_gguf(path, None), None, random_tokens(n_ctx, llm.n_vocab()), 1)
    with lined_up(bed, [variant]) as lineup:
        (contender,) = lineup.contenders
        contender.seconds(test)
    llm.close()


def main() -> None:
    if len(sys.argv) == 3:
        decode(sys.argv[1], int(sys.argv[2]))
        return
    shape_file(SHAPES[SHAPE])  # written here, if it has to be, and not while instructions are counted
    per_token = {}
    for variant in (PLAIN, OURS, PEER):
        # nor are modules compiled then
        subprocess.run([sys.executable, __file__, variant, str(FEW)], check=True, capture_output=True)
        per_token[variant] = (count(variant, MORE) - count(variant, FEW)) / (MORE - FEW)
        print(f"{variant:<12} {per_token[variant]:>14,.0f} instructions a token", flush=True)
    ours, peer = (per_token[variant] - per_token[PLAIN] for variant in (OURS, PEER))
    print(f"{'steering':<12} {ours:>14,.0f} ours, {peer:,.0f} in Python: 1/{peer / ours:.0f}")


if __name__ == "__main__":
    main()
