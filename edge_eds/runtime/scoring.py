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


def log_prob(logits: FloatArray, token: int) -> float:
    """log p(token), in nats, of logits (n_vocab,)."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def answer_log_probs(
    llm: ParallelLlama,
    n_batch: int,
    n_parallel: int,
    n_prefix: int,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> list[FloatArray]:
    """log p(token | prompt and the answer before it) of every token of every answer: arrays (n_tokens,).

    Each prompt with its answer must fit the context of one sequence. The first n_prefix tokens, which all prompts must
    have in common, are decoded once, in the sequence n_parallel. The timeline is empty afterwards.
    """
    memory = llama_api.llama_get_memory(llm.ctx)
    scoring = _Scoring(llm, n_batch, prompts, answers)
    pending = [i for i, answer in enumerate(answers) if len(answer)]
    llm._hook.set_program(None)
    llama_api.llama_memory_clear(memory, True)
    try:
        if pending and n_prefix:
            scoring.decode_prefix(prompts[0][:n_prefix], n_parallel)
        for start in range(0, len(pending), n_parallel):
            group = pending[start : start + n_parallel]
            for sequence_id in range(len(group)):
                llm.restart(sequence_id, n_prefix)
            scoring.score(group, n_prefix)
    finally:
        llama_api.llama_memory_clear(memory, True)
    return scoring.results


class _Scoring:
    """The rows of the next decode, and what their logits will be read for."""

    def __init__(
        self,
        llm: ParallelLlama,
        n_batch: int,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
    ) -> None:
        self.llm, self.n_batch = llm, n_batch
        self.prompts, self.answers = prompts, answers
        self.results = [np.zeros(len(answer), dtype=np.float32) for answer in answers]
        self._rows = Rows()
        self._wanted: list[tuple[int, int, int]] = []  # batch row, answer, the token of it that the row predicts

    def decode_prefix(self, tokens: Sequence[int], sequence_id: int) -> None:
        """Decode what all prompts begin with."""
        for position, token in enumerate(tokens):
            self._put(token, position, sequence_id)
        self._decode()

    def score(self, group: Sequence[int], n_prefix: int) -> None:
        """Fill the results of these answers, each in a sequence of its own that holds the prefix already."""
        for sequence_id, i in enumerate(group):
            tokens = [*self.prompts[i], *self.answers[i][:-1]]
            for position in range(n_prefix, len(tokens)):
                predicts = position + 1 - len(self.prompts[i])
                if predicts >= 0:
                    self._wanted.append((self._rows.n, i, predicts))
                self._put(tokens[position], position, sequence_id, output=predicts >= 0)
        self._decode()

    def _put(self, token: int, position: int, sequence_id: int, output: bool = False) -> None:
        self.llm.put(self._rows, token, position, sequence_id, output=output)
        if self._rows.n == self.n_batch or len(self._wanted) == _MAX_OUTPUTS:
            self._decode()

    def _decode(self) -> None:
        if not self._rows.n:
            return
        self.llm.decode(self._rows, None)
        for row, i, predicts in self._wanted:
            self.results[i][predicts] = log_prob(self.llm.logits(row), self.answers[i][predicts])
        self._rows, self._wanted = Rows(), []
