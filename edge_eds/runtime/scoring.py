"""How likely the unsteered model finds given answers, token by token: many answers in one llama.cpp batch.

Takes prompts with answers as tokens; gives log-probabilities in nats. Nothing is generated and nothing steered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama_api

from edge_eds.runtime.parallel import ParallelLlama, Rows

FloatArray = npt.NDArray[np.float32]
_MAX_OUTPUTS = 128  # rows of one decode whose logits are kept: 128 x 150,000 floats take 77 MB


def answer_log_probs(
    llm: ParallelLlama,
    n_batch: int,
    n_parallel: int,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> list[FloatArray]:
    """log p(token | prompt and the answer before it) of every token of every answer: arrays (n_tokens,).

    Each prompt with its answer must fit the context of one sequence. The timeline is empty afterwards.
    """
    memory = llama_api.llama_get_memory(llm.ctx)
    results = [np.zeros(len(answer), dtype=np.float32) for answer in answers]
    pending = [i for i, answer in enumerate(answers) if len(answer)]
    llm._hook.set_program(None)
    try:
        for start in range(0, len(pending), n_parallel):
            llama_api.llama_memory_clear(memory, True)
            _score(llm, n_batch, pending[start : start + n_parallel], prompts, answers, results)
    finally:
        llama_api.llama_memory_clear(memory, True)
    return results


def _score(
    llm: ParallelLlama,
    n_batch: int,
    chosen: Sequence[int],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    results: Sequence[FloatArray],
) -> None:
    """Fill the results of the chosen answers, each in a sequence of its own."""
    rows = Rows()
    wanted: list[tuple[int, int, int]] = []  # batch row, answer, the token of it that the row predicts
    for sequence_id, i in enumerate(chosen):
        tokens = [*prompts[i], *answers[i][:-1]]
        for position, token in enumerate(tokens):
            predicts = position + 1 - len(prompts[i])
            if predicts >= 0:
                wanted.append((rows.n, i, predicts))
            llm.put(rows, token, position, sequence_id, output=predicts >= 0)
            if rows.n == n_batch or len(wanted) == _MAX_OUTPUTS:
                _decode(llm, rows, wanted, answers, results)
                rows, wanted = Rows(), []
    if rows.n:
        _decode(llm, rows, wanted, answers, results)


def _decode(
    llm: ParallelLlama,
    rows: Rows,
    wanted: Sequence[tuple[int, int, int]],
    answers: Sequence[Sequence[int]],
    results: Sequence[FloatArray],
) -> None:
    llm.decode(rows, None)
    for row, i, predicts in wanted:
        logits = np.ctypeslib.as_array(llama_api.llama_get_logits_ith(llm.ctx, row), shape=(llm._n_vocab,))
        top = logits.max()
        results[i][predicts] = logits[answers[i][predicts]] - top - np.log(np.exp(logits - top).sum())
