"""Does an energy file serve the same model in another quantization?

Takes a GGUF, its adapter and its energies; requantizes the GGUF with llama.cpp's own function and steers every copy
with the same energies, whatever their fingerprint says. Gives a table: refusals on the built-in test split, plain and
steered, and how often the gate decides as it does on the original.

    python models/compare_quantizations.py --threads 2          (the default model; about 5 minutes a row)
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import llama_cpp

from edge_eds.energy.file import EnergyFile
from edge_eds.errors import ModelError
from edge_eds.pipeline.eval_report import SuiteReport
from edge_eds.pipeline.prompts import builtin_prompts
from edge_eds.pipeline.verdict import Verdict, VerdictSettings, reach_verdict
from edge_eds.reports.numerals import interval, percent
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles, default_model

DEFAULT_ENERGY = Path(__file__).with_name("smollm2-135m-overcautious.energy.onnx")
TYPES = {"F16": 1, "Q8_0": 7, "Q4_0": 2, "Q2_K": 10}  # llama.cpp's file types


def main(argv: list[str] | None = None) -> None:
    """Measure every quantization and print the table; a JSON line for each as it is done."""
    options = _parser().parse_args(argv)
    files = default_model() if options.model is None else ModelFiles(options.model, options.lora)
    energy = EnergyFile.load(options.energy)
    settings = VerdictSettings(n=options.n)
    decisions: dict[str, list[str]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, gguf in chain([("original", files.gguf)], _copies(files.gguf, Path(folder), options.types)):
            verdict, decisions[name] = _measure(ModelFiles(gguf, files.lora), energy, settings, options.threads)
            same = [a == b for a, b in zip(decisions[name], decisions["original"], strict=True)]
            rows.append(_row(name, verdict, sum(same) / len(same)))
            found = {"quantization": name, "same_gate": sum(same) / len(same), **verdict.to_json()}
            print(json.dumps(found), flush=True)
    print("\n".join(["| | harmless refused, plain | steered | harmful refused, plain | steered | same gate |",
                     "|---|---|---|---|---|---|", *rows]))  # fmt: skip


def _measure(
    files: ModelFiles, energy: EnergyFile, settings: VerdictSettings, threads: int | None
) -> tuple[Verdict, list[str]]:
    with BatchRunner(files, n_threads=threads) as runner:
        own = replace(energy, fingerprint=runner.fingerprint)  # what the fingerprint says is the question here
        verdict = reach_verdict(runner, own, builtin_prompts(), settings)
    gates = [line["steered"]["gate"] for report in verdict.reports.values() for line in report.transcripts]
    return verdict, gates


def _copies(gguf: Path, folder: Path, types: Iterable[str]) -> Iterable[tuple[str, Path]]:
    for name in types:
        path = folder / f"{name}.gguf"
        requantize(gguf, path, TYPES[name])
        yield name, path
        path.unlink()


def requantize(source: Path, path: Path, file_type: int) -> None:
    """Write `source` in another of llama.cpp's file types, quantized tensors included.

    Raises:
        ModelError: llama.cpp could not.
    """
    params: Any = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = file_type, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)):
        raise ModelError(f"{source}: llama.cpp could not requantize it to file type {file_type}")


def _row(name: str, verdict: Verdict, same: float) -> str:
    cells = [cell for kind in ("harmless", "harmful") for cell in _cells(verdict.reports[kind])]
    return f"| {name} | {' | '.join(cells)} | {percent(same)} % |"


def _cells(report: SuiteReport) -> list[str]:
    rates = [measure.rates["refusal"] for measure in (report.plain, report.steered) if measure is not None]
    return [f"{percent(rate.value)} ({interval(rate)})" for rate in rates]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF; the default model if left out")
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--energy", type=Path, default=DEFAULT_ENERGY)
    parser.add_argument("--n", type=int, default=150, help="prompts of each kind")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    return parser


if __name__ == "__main__":
    main()
