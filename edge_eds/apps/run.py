"""`edge-eds run`: one prompt, one answer, for scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_eds.apps import options
from edge_eds.errors import InputError


def command(
    model: options.Model = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="The prompt; - reads it from stdin.")
    ] = None,
    system: options.System = None,
    compare: Annotated[bool, typer.Option("--compare", help="Answer again without steering.")] = False,
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
    """Answer one prompt, for scripts.

    The answer streams to stdout and a line about the steering to stderr.
    """
    if prompt is None:
        raise typer.BadParameter("give the prompt as -p TEXT, or as -p - to read it from stdin", param_hint="'-p'")

    from edge_eds.apps.answer import generate
    from edge_eds.apps.session import open_session
    from edge_eds.apps.settings import Sampling, SessionOptions
    from edge_eds.apps.status import status_line
    from edge_eds.apps.terminal import Terminal, finish, read_stdin

    session_options = SessionOptions(model, lora, energy, strength, threads, ctx, chat_format)
    sampling = Sampling(max_tokens, temperature, seed).drawn()
    text = read_stdin().rstrip("\n") if prompt == "-" else prompt
    if not text.strip():
        raise InputError("the prompt is empty; expected some text")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    with open_session(session_options) as session:
        if compare:
            session.require_energies("--compare")
        terminal = Terminal(answers_on_stderr=as_json)
        on_text = None if as_json else terminal.answer
        answer = generate(session, messages, sampling, on_text)
        document = answer.document(session.name)
        if not as_json:
            terminal.remark(status_line(answer, session.steerable))
        if compare:
            session.steer(0.0)
            if not as_json:
                terminal.show("-- without steering --", style="dim")
            plain = generate(session, messages, sampling, on_text)
            terminal.end_line()
            document["plain"] = plain.document(session.name)
    finish(document, as_json, out)
