"""`edge-eds chat`: the options; the chat itself is in chat_loop.py, imported when it starts."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_eds.apps import options


def command(
    model: options.Model = None,
    system: options.System = None,
    compare: Annotated[bool, typer.Option("--compare", help="Answer every turn without steering, too.")] = False,
    max_tokens: options.MaxTokens = 512,
    temperature: options.Temperature = 0.0,
    lora: options.Lora = None,
    energy: options.Energy = "auto",
    strength: options.Strength = None,
    threads: options.Threads = None,
    ctx: options.Ctx = None,
    seed: options.Seed = None,
    chat_format: options.ChatFormat = None,
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Talk to a model whose false refusals are steered away.

    In a pipe, each line of stdin is one message; answers go to stdout, remarks to stderr. /help lists what
    can be entered besides messages.
    """
    from edge_eds.apps.chat_loop import Chat
    from edge_eds.apps.chat_state import ChatState
    from edge_eds.apps.session import open_session
    from edge_eds.apps.settings import Sampling, SessionOptions
    from edge_eds.apps.terminal import Terminal, finish

    session_options = SessionOptions(model, lora, energy, strength, threads, ctx, chat_format)
    sampling = Sampling(max_tokens, temperature, seed)
    with open_session(session_options) as session:
        if compare:
            session.require_energies("--compare")
        terminal = Terminal(answers_on_stderr=as_json)
        state = ChatState(session.name, session.steerable, session.strength or 1.0, session.strength > 0, system or "")
        chat = Chat(session, state, terminal, sampling, compare)
        if terminal.person:
            terminal.remark(session.greeting)
        chat.run()
        document = {"model": session.name, "turns": chat.turns}
    finish(document, as_json, out)
