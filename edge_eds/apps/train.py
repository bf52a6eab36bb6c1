"""`edge-eds train`: energies from a collection."""

from __future__ import annotations

from edge_eds.apps import options


def command(
    model: options.Model = None,
    prompts: options.Prompts = None,
    work: options.Work = None,
    lora: options.Lora = None,
    seed: options.Seed = None,
    chat_format: options.ChatFormat = None,
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Train energies on what collect has kept.

    Give the same MODEL, --prompts and --work as to collect. --out writes the document of --json.
    """
    from edge_eds.apps.extras import require
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import finish

    require("torch", "train")
    from edge_eds.apps.making import Maker, MakingOptions

    session = SessionOptions(model=model, lora=lora, chat_format=chat_format)
    document = Maker(MakingOptions(session, tuple(prompts or ()), work, seed=seed)).train()
    finish(document, as_json, out)
