"""The same steering with transformers and torch: forward hooks, and the gradient by autograd.

Two halves. `TransformersPeer` is the contender in the bench; it starts this module as a program of its own, so that the
bench never imports torch. The program loads the GGUF's weights as float32, hooks the energies of a file to its layers,
and answers each line "pp512" or "tg64" on stdin with the seconds it took. The gate is left out: it lets all pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_eds.errors import SteeringError
from edge_eds.pipeline.bench.contender import WARM_TOKENS, Contender, Test

BYTES_PER_WEIGHT = 8  # float32, twice while it loads


def is_installed() -> bool:
    """Whether transformers and torch can be imported."""
    return find_spec("transformers") is not None and find_spec("torch") is not None


class TransformersPeer(Contender):
    """The program, as a contender.

    Raises:
        SteeringError: it could not load the model; with its own words.
    """

    name = "transformers"

    def __init__(self, gguf: Path, energy: Any, n_threads: int, tokens: Sequence[int]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        energy.save(folder / "bench.energy.onnx")
        (folder / "tokens.json").write_text(json.dumps(list(tokens)), encoding="ascii")
        self._errors = (folder / "errors.txt").open("w+", encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(gguf.resolve()), str(folder), str(n_threads)]
        self._program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._answer()

    def seconds(self, test: Test) -> float:
        assert self._program.stdin is not None
        self._program.stdin.write(test.name + "\n")
        self._program.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        self._program.kill()
        self._program.wait()
        for stream in (self._program.stdin, self._program.stdout, self._errors):
            if stream is not None:
                stream.close()
        self._folder.cleanup()

    def _answer(self) -> str:
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        if not line:
            self._program.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["no word of it"]
            self.close()
            raise SteeringError(f"transformers could not do it: {said[-1]}")
        return line


# -- the program ------------------------------------------------------------------------------------------------------


def main(gguf: str, folder: str, n_threads: str) -> None:
    """Load, say "ready", and answer tests until stdin ends."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(int(n_threads))
    path = Path(gguf)
    tokens = json.loads((Path(folder) / "tokens.json").read_text(encoding="ascii"))
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.train(False)
    written = _hook_energies(model, Path(folder) / "bench.energy.onnx")
    print("ready", flush=True)
    for line in sys.stdin:
        test = Test.of(line.strip())
        cache, done = DynamicCache(config=model.config), 0

        def decode(n: int, cache: Any = cache) -> None:
            nonlocal done
            with torch.no_grad():
                model(torch.tensor([tokens[done : done + n]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            done += n

        if test.kind == "tg":
            decode(WARM_TOKENS)
        written.clear()
        start = time.perf_counter()
        for n in [test.n] if test.kind == "pp" else [1] * test.n:
            decode(n)
        passed = time.perf_counter() - start
        if not written or len(set(written.values())) != 1:
            raise SteeringError("the hooks did not steer every layer")
        print(passed, flush=True)


def _hook_energies(model: Any, energy: Path) -> dict[int, int]:
    """Hook every steered layer; returns {layer: rows written so far}."""
    import torch

    from edge_eds.energy.file import EnergyFile
    from edge_eds.energy.network import HeadWeights, Subspace

    file = EnergyFile.load(energy)
    assert file.energies is not None
    spec = file.spec
    written: dict[int, int] = {}

    def net_of(head: HeadWeights) -> Any:
        parts: list[Any] = []
        for block in head.hidden:
            linear = torch.nn.Linear(block.n_in, block.n_out)
            linear.weight.data, linear.bias.data = torch.tensor(block.W), torch.tensor(block.b)
            parts += [linear, torch.nn.SiLU()]
        last = torch.nn.Linear(head.w.size, 1)
        last.weight.data = torch.tensor(head.w[None])
        return torch.nn.Sequential(*parts, last).requires_grad_(False)

    def hook_of(il: int, space: Subspace, net: Any) -> Any:
        mu, basis, spread = (torch.tensor(array) for array in (space.mu, space.P, space.s))

        def hook(_: Any, __: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            h = hidden[0, -1]
            z = start = (basis @ (h - mu)) / spread
            step = spec.step_size * h.norm()
            for _step in range(spec.steps):
                with torch.enable_grad():
                    z = z.detach().requires_grad_()
                    (g,) = torch.autograd.grad(net(z).sum(), z)
                z = z.detach() - step * g / (spread * g).norm()
            hidden[0, -1] += basis.T @ (spread * (z - start))
            written[il] = written.get(il, 0) + 1

        return hook

    for il in spec.layers:
        layer = file.energies.layers[il]
        assert layer.subspace is not None
        hook = hook_of(il, layer.subspace, net_of(layer.heads[spec.heads[0]]))
        model.model.layers[il].register_forward_hook(hook)
    return written


if __name__ == "__main__":
    main(*sys.argv[1:])
