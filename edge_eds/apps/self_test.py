"""The self-test of `edge-eds doctor`, run as a program: python -m edge_eds.apps.self_test '{"model": null, ...}'.

Takes one JSON object on the command line (model, lora, energy as for a chat); gives one on stdout. Decodes a few
tokens, reads a hidden state, edits it and sees the answer change, takes the edit back and sees the plain answer
again, bit by bit; and answers once as steered as the energies were tuned.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_eds.apps.answer import generate
from edge_eds.apps.session import Session, open_session
from edge_eds.apps.settings import Sampling, SessionOptions
from edge_eds.errors import EdgeError, ModelError, SteeringError
from edge_eds.runtime.interventions import AddVector
from edge_eds.runtime.session import EdgeLlama

QUESTION = "How can I destroy old paper records safely?"  # the default model refuses it, and is steered
N_TOKENS = 12
UNFIT = 3  # exit status: this model cannot be used, and nothing is wrong with the installation
_CTX = 512


def self_test(options: SessionOptions) -> dict[str, Any]:
    """What was seen; `text` says it in a line.

    Raises:
        EdgeError: something does not work; the message says what.
    """
    started = time.perf_counter()
    with open_session(options) as session:
        loaded = time.perf_counter()
        seen: dict[str, Any] = {"layer": _check_hook(session.llm), "seconds_to_load": round(loaded - started, 3)}
        messages = [{"role": "user", "content": QUESTION}]
        answer = generate(session, messages, Sampling(N_TOKENS, seed=0))
        steering = answer.steering
        seen |= {"tokens_per_second": round(answer.tokens_per_second, 1), "steering": steering.document()}
        seen["seconds"] = round(time.perf_counter() - started, 3)
        return {**seen, "text": f"{_decoded(answer.tokens_per_second)}, {_steered(session, steering.document())}"}


def _check_hook(llm: EdgeLlama) -> int:
    """Read and edit the first layer that can be steered; gives that layer."""
    steerable = llm.steerable_layers
    if not steerable:
        reason = llm.layers[0].refusal if llm.layers else "it has none"
        raise ModelError(f"no layer of this model can be steered: {reason}")
    il = steerable[0]
    tokens = llm.chat_tokens(QUESTION)
    plain = _logits(llm, tokens)
    states = llm.capture(tokens, [il], positions="last")[il]
    if not np.isfinite(states).all():
        raise SteeringError(f"the hidden states of layer {il} are not finite numbers")
    with llm.intervening({il: AddVector(np.random.default_rng(0).normal(size=llm.n_embd()))}):
        edited = _logits(llm, tokens)
    if np.array_equal(edited, plain):
        raise SteeringError(f"an edit of layer {il} left the answer as it was: the hook does nothing")
    if not np.array_equal(_logits(llm, tokens), plain):
        raise SteeringError("after an edit was taken back, the answer is not the plain one again")
    return il


def _logits(llm: EdgeLlama, tokens: list[int]) -> npt.NDArray[np.float32]:
    """What the plain model, or the model under interventions, says after a prompt: (n_vocab,)."""
    llm.reset()
    llm._ctx.kv_cache_clear()
    llm.eval(tokens)
    return np.array(llm.logits(-1), dtype=np.float32)


def _decoded(tokens_per_second: float) -> str:
    return f"decodes ({tokens_per_second:.0f} tokens/s), reads and edits hidden states"


def _steered(session: Session, steering: dict[str, Any]) -> str:
    if not session.steerable:
        return "no energies to steer with"
    if not steering["touched_tokens"]:
        in_sight = {True: " and a refusal is in sight", False: " and no refusal is in sight", None: ""}
        seen = in_sight[steering["refusal_in_sight"]]
        return f"the gate finds the question {steering['gate']}{seen}, so nothing was steered"
    before, after = steering["energy_before"], steering["energy_after"]
    return f"steers (energy {before:.2f} to {after:.2f})"


def main() -> None:
    """Entry point: one JSON object in, one out; what is wrong with the model is one line on stderr and status UNFIT."""
    asked = json.loads(sys.argv[1])
    lora = None if asked["lora"] is None else Path(asked["lora"])
    try:
        print(json.dumps(self_test(SessionOptions(asked["model"], lora, asked["energy"], ctx=_CTX))))
    except SteeringError as error:
        sys.exit(str(error))
    except EdgeError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(UNFIT)


if __name__ == "__main__":
    main()
