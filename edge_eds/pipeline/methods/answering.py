"""The answers of many steerers to the same conversations; what several of them have in common is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_eds.pipeline.methods.steerer import Steerer
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.chat_prompt import Message

RunnerFor = Callable[[Steerer], BatchRunner]  # the model as a steerer needs it loaded
AT_ONCE = 4  # steerers that should be answered under together: so many a run that is killed may lose


def answers(
    runner_for: RunnerFor,
    steerers: Sequence[Steerer],
    conversations: Sequence[str | Sequence[Message]],
    max_new_tokens: int,
) -> list[list[str]]:
    """For each steerer the text of its answer to each conversation."""
    texts: dict[int, list[str]] = {}
    while left := [i for i in range(len(steerers)) if i not in texts]:
        adapter = steerers[left[0]].adapter
        runner = runner_for(steerers[left[0]])
        prompts = {
            i: [steerers[i].tokens(runner, conversation) for conversation in conversations]
            for i in left
            if steerers[i].adapter == adapter
        }
        alike = [i for i, its in prompts.items() if its == prompts[left[0]]]
        trials = runner.try_programs(
            prompts[left[0]],
            [steerers[i].program(runner) for i in alike],
            max_new_tokens=max_new_tokens,
            read_logits=lambda _, __: 0.0,
        )
        texts |= {i: [runner.text(one.tokens) for one in its] for i, its in zip(alike, trials, strict=True)}
    return [texts[i] for i in range(len(steerers))]
