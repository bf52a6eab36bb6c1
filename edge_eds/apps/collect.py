"""`edge-eds collect`: a model's hidden states and judged answers on a set of prompts."""

from __future__ import annotations

from edge_eds.apps import options


def command(
    model: options.Model = None,
    prompts: options.Prompts = None,
    work: options.Work = None,
    lora: options.Lora = None,
    threads: options.Threads = None,
    ctx: options.Ctx = None,
    chat_format: options.ChatFormat = None,
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Ask the model a prompt set and keep its hidden states and verdicts.

    A run that is stopped goes on where it was. --out writes the document of --json.
    """
    from edge_eds.apps.extras import require
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import finish

    require("torch", "train")
    from edge_eds.apps.making import Maker, MakingOptions

    session = SessionOptions(model=model, lora=lora, threads=threads, ctx=ctx, chat_format=chat_format)
    document = Maker(MakingOptions(session, tuple(prompts or ()), work)).collect()
    finish(document, as_json, out)
