"""What the energies say of tokens that are there already: the end of a prompt, and an answer token by token.

The model reads them without being steered. An answer is read again as text, so its tokens are those that the tokenizer
makes of it. Leaves out the documents.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np

from edge_eds.apps.server.worker import Claim, Job, Worker
from edge_eds.energy.engines import make_engine
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import Float32Array
from edge_eds.runtime.slots import Slots

_WINDOW = 256  # tokens whose states are held at a time; between two windows others have their turn

Energies = dict[int, dict[str, Float32Array]]  # layer -> head -> one energy a token


class Reader:
    """Reads with the energies of one file."""

    def __init__(self, worker: Worker, file: EnergyFile) -> None:
        self._worker, self._file = worker, file
        self._engine = make_engine(file)

    def read(self, claim: Claim, prompt: Sequence[int], message: range, answer: Sequence[int]) -> Energies:
        """The energies at the prompt's end and at each token of an answer, (1 + len(answer),) each.

        E_harm_message at the prompt's end is its mean over the message, whose positions in the prompt are given.

        Raises:
            PromptTooLongError: more tokens than the context holds.
        """
        tokens, end = [*prompt, *answer], len(prompt) - 1
        start = message.start if message else end
        parts = []
        for first in range(start, len(tokens), _WINDOW):
            window = tokens[: first + _WINDOW]
            parts.append(self._read_window(claim, window, len(window) - first))
        energies: Energies = {}
        for il, heads in sorted(self._file.heads.items()):
            energies[il] = {}
            for head in heads:
                values = np.concatenate([part[il][head] for part in parts])
                energies[il][head] = values[end - start :]
                if head == "harm_message" and message:
                    energies[il][head][0] = values[: len(message)].mean(dtype=np.float64)
        return energies

    def _read_window(self, claim: Claim, tokens: Sequence[int], n_last: int) -> Energies:
        heads = self._file.heads

        def states(slots: Slots) -> dict[int, Float32Array]:
            return slots.states(tokens, sorted(heads), n_last)

        job = Job(claim, states)
        self._worker.submit(job)
        by_layer = job.wait()
        return {il: {head: self._engine.energy(il, head, rows) for head in heads[il]} for il, rows in by_layer.items()}


def answer_tokens(slots: Slots, answer: str) -> tuple[list[int], list[str]]:
    """The tokens of an answer's text, and the text of each ("" for one that only completes a letter with the next)."""
    tokens = slots.session.tokenize(answer.encode(), add_bos=False)
    letters = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [letters.decode(slots.piece(token)) for token in tokens]
    if "".join(pieces) == " " + answer:  # some tokenizers put a blank before every text
        pieces[0] = pieces[0][1:]
    return tokens, pieces
