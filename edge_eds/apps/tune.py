"""`edge-eds tune`: how to steer with trained energies."""

from __future__ import annotations

from edge_eds.apps import options


def command(
    model: options.Model = None,
    prompts: options.Prompts = None,
    work: options.Work = None,
    lora: options.Lora = None,
    threads: options.Threads = None,
    ctx: options.Ctx = None,
    seed: options.Seed = None,
    chat_format: options.ChatFormat = None,
    max_lost: options.MaxLost = None,
    as_json: options.Json = False,
    out: options.EnergyOut = None,
) -> None:
    """Search how to steer, by trying it on the model itself.

    Give the same MODEL, --prompts and --work as to train. Run again with another --max-lost it takes what it has tried,
    and chooses another point.
    """
    from edge_eds.apps.extras import require
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import finish

    require("torch", "train")
    from edge_eds.apps.making import Maker, MakingOptions

    session = SessionOptions(model=model, lora=lora, threads=threads, ctx=ctx, chat_format=chat_format)
    document = Maker(MakingOptions(session, tuple(prompts or ()), work, out, seed, max_lost=max_lost)).tune()
    finish(document, as_json, None)
