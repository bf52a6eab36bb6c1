"""How the next token is chosen from logits: the settings, and llama.cpp's sampler chain for them.

The chain is in the order of llama_cpp.Llama (penalties, grammar, then top-k, top-p, min-p, temperature), so that equal
settings and seeds give equal tokens. Leaves out where the logits come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from llama_cpp import Llama
from llama_cpp import llama_cpp as llama_api
from llama_cpp._internals import LlamaSampler

from edge_eds.errors import InputError, SettingsError

_GRAMMAR_ROOT = b"root"
_RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repeat_penalty": (0.1, 10.0),
}
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class TokenSampling:
    """temperature 0 takes the likeliest token; top_k 0 keeps all. The penalties count the answer's tokens.

    logit_bias: token -> what is added to its logit. grammar: GBNF text, or None.
    """

    temperature: float = 0.0
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: str | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise SettingsError(f"{name} is {value:g}, expected a number from {low:g} to {high:g}")
        if not 0 <= self.top_k < 2**31:
            raise SettingsError(f"top_k is {self.top_k}, expected 0 (all tokens) or more")
        if not 0 <= self.seed <= MAX_SEED:
            raise SettingsError(f"seed is {self.seed}, expected 0 to {MAX_SEED}")
        for token, bias in self.logit_bias.items():
            if not (math.isfinite(bias) and -100 <= bias <= 100):
                raise SettingsError(f"logit_bias of token {token} is {bias:g}, expected -100 to 100")


def make_sampler(llm: Llama, sampling: TokenSampling, n_ctx: int) -> LlamaSampler:
    """A new chain for one answer of up to n_ctx tokens; its `close` frees it.

    Raises:
        InputError: a grammar that llama.cpp cannot read; a token of logit_bias that the model does not have.
    """
    chain = LlamaSampler()
    n_vocab = llm.n_vocab()
    if sampling.logit_bias:
        unknown = [token for token in sampling.logit_bias if not 0 <= token < n_vocab]
        if unknown:
            raise InputError(f"logit_bias names token {unknown[0]}; the model has tokens 0 to {n_vocab - 1}")
        chain.add_logit_bias(n_vocab, dict(sampling.logit_bias))
    chain.add_penalties(n_vocab, n_ctx, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    if sampling.grammar is not None:
        _add_grammar(chain, llm, sampling.grammar)
    if sampling.temperature == 0:
        chain.add_greedy()
        return chain
    chain.add_top_k(sampling.top_k)
    chain.add_top_p(sampling.top_p)
    chain.add_min_p(sampling.min_p)
    chain.add_temp(sampling.temperature)
    chain.add_dist(sampling.seed)
    return chain


def _add_grammar(chain: LlamaSampler, llm: Llama, grammar: str) -> None:
    vocab = llama_api.llama_model_get_vocab(llm.model)
    if llama_api.llama_vocab_eos(vocab) < 0:  # nothing could be chosen where the grammar ends: llama.cpp would abort
        raise InputError("the model has no end-of-text token, which an answer in a grammar needs")
    part = llama_api.llama_sampler_init_grammar(vocab, grammar.encode("utf-8"), _GRAMMAR_ROOT)
    if not part:
        raise InputError("llama.cpp cannot read the grammar that was made of the JSON schema; simplify the schema")
    llama_api.llama_sampler_chain_add(chain.sampler, part)
