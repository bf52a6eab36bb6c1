"""The documents that the server answers with, in the form of OpenAI's API, and `eds` beside them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_eds.apps.server.readings import Energies
from edge_eds.apps.server.worker import Result, Token
from edge_eds.apps.trace_document import threshold_of, trace_document
from edge_eds.energy.network import GATE_HEADS
from edge_eds.energy.settings import SteeringSpec

Piece = Callable[[int], bytes]  # the bytes of a token


def usage(results: Sequence[Result]) -> dict[str, Any]:
    """How many tokens went in and came out; `cached_tokens` of the prompt were there from before."""
    n_prompt = sum(result.n_prompt for result in results)
    n_new = sum(len(result.pieces) for result in results)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_new,
        "total_tokens": n_prompt + n_new,
        "prompt_tokens_details": {"cached_tokens": sum(result.n_cached for result in results)},
    }


def chat_logprobs(tokens: Sequence[Token], piece: Piece) -> dict[str, Any]:
    """Log-probabilities as chats have them."""

    def entry(text: bytes, logprob: float) -> dict[str, Any]:
        return {"token": text.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(text)}

    content = []
    for token in tokens:
        if token.logprobs is not None:
            top = [entry(piece(other), logprob) for other, logprob in token.logprobs.top]
            content.append({**entry(token.bytes, token.logprobs.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[Token], piece: Piece, offset: int) -> dict[str, Any]:
    """Log-probabilities as completions have them; offset: letters of the answer before these tokens."""
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        if token.logprobs is None:
            continue
        text = token.bytes.decode("utf-8", "replace")
        top = {piece(other).decode("utf-8", "replace"): logprob for other, logprob in reversed(token.logprobs.top)}
        found["tokens"].append(text)
        found["token_logprobs"].append(token.logprobs.logprob)
        found["top_logprobs"].append({**top, text: token.logprobs.logprob})
        found["text_offset"].append(offset)
        offset += len(text)
    return found


def steering(result: Result, spec: SteeringSpec | None) -> dict[str, Any]:
    """`eds` of an answer."""
    return trace_document(result.trace, result.pieces, result.strength, spec)


def energies(
    prompt_tokens: int,
    by_layer: dict[int, dict[str, float]],
    refusal_in_sight: bool | None,
    spec: SteeringSpec,
    model: str,
) -> dict[str, Any]:
    """What the energies say of the state {layer: {head: energy}} at a prompt's end, and what steering would do.

    refusal_in_sight: whether the plain model is about to refuse; None where steering does not ask.
    """
    gate, decision, score, head = spec.gate, "ungated", None, "merged"
    if gate is not None:
        score = gate.bias
        for name, weights in gate.by_head.items():
            score += sum(weight * by_layer[il][name] for il, weight in weights.items())
        decision = "benign" if score <= gate.benign else "harmful" if score >= gate.harmful else "uncertain"
        head = {"benign": "fr", "harmful": "jb"}.get(decision, "")
        if head not in spec.heads:  # the gate has no decision for which nothing can be descended
            decision, head = "uncertain", ""
    is_due = refusal_in_sight is None or refusal_in_sight == (head == "fr")
    layers = []
    for il, by_head in by_layer.items():
        thresholds = {name: threshold_of(spec, name, il) for name in by_head if name not in GATE_HEADS}
        threshold = thresholds.get(head)
        touched = il in spec.layers and head in by_head and (threshold is None or by_head[head] > threshold)
        layers.append(
            {"layer": il, "energies": by_head, "thresholds": thresholds, "would_be_touched": is_due and touched}
        )
    return {
        "object": "eds.energy",
        "model": model,
        "prompt_tokens": prompt_tokens,
        "gate": decision,
        "gate_score": score,
        "gate_benign": None if gate is None else gate.benign,
        "gate_harmful": None if gate is None else gate.harmful,
        "refusal_in_sight": refusal_in_sight,
        "head": head or None,
        "would_be_touched": any(layer["would_be_touched"] for layer in layers),
        "layers": layers,
    }


def readings(pieces: Sequence[str], energies: Energies, spec: SteeringSpec) -> list[dict[str, Any]]:
    """What the energies that can be descended say of each token of an answer.

    pieces: the text of each. energies: of the prompt's end first, then of these. offset k is the k-th token.
    """
    return [
        {
            "offset": offset,
            "text": text,
            "layers": [
                {"layer": il, "energies": {head: float(of[head][offset]) for head in spec.heads if head in of}}
                for il, of in energies.items()
                if il in spec.layers
            ],
        }
        for offset, text in enumerate(pieces, 1)
    ]


def tool_call_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message of llama-cpp-python without the call in the form that came before tools, which nobody can ask for."""
    return {name: value for name, value in message.items() if name != "function_call"}


def tool_call_delta(delta: dict[str, Any], begun: set[int]) -> dict[str, Any]:
    """What is new of a message, as clients take it that join every text: id, type and name of a call come once.

    begun: the calls of this message that have been named; those of this delta are added.
    """
    told = {name: value for name, value in tool_call_message(delta).items() if value is not None}
    if "tool_calls" in told:
        calls = []
        for call in told["tool_calls"]:
            more = {"index": call["index"], "function": {"arguments": call["function"]["arguments"]}}
            calls.append(more if call["index"] in begun else call)
            begun.add(call["index"])
        told["tool_calls"] = calls
    return told


def chunks_of(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An answer that is complete, as the chunks of a stream: all of it at once, and how it ended."""
    (choice,) = document["choices"]
    delta = dict(choice["message"])
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
    head = {name: document[name] for name in ("id", "created", "model")}
    for new, reason in ((delta, None), ({}, choice["finish_reason"])):
        parts = {"index": 0, "delta": new, "logprobs": None, "finish_reason": reason}
        yield {**head, "object": "chat.completion.chunk", "choices": [parts]}


def embedding(index: int, values: npt.NDArray[np.float32], as_base64: bool) -> dict[str, Any]:
    """One embedding, as numbers or as the base64 of little-endian float32."""
    encoded: Any = values.tolist()
    if as_base64:
        encoded = base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")
    return {"object": "embedding", "index": index, "embedding": encoded}


def models(strengths: Mapping[str, float], created: int, spec: SteeringSpec | None) -> list[dict[str, Any]]:
    """The models {name: strength unless a request says otherwise} of this server, and what its energies steer."""
    gate = None if spec is None or spec.gate is None else {"benign": spec.gate.benign, "harmful": spec.gate.harmful}
    steering = {"layers": [] if spec is None else list(spec.layers), "gate": gate}
    return [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "edge-eds",
            "eds": {"strength": strength, **steering},
        }
        for name, strength in strengths.items()
    ]
