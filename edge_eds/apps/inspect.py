"""`edge-eds inspect`: what a model is, which of its layers can be steered, and what its energies are."""

from __future__ import annotations

from edge_eds.apps import options


def command(
    model: options.Model = None,
    lora: options.Lora = None,
    energy: options.Energy = "auto",
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Show what can be steered in a model, and its energies.

    Nothing is generated. docs/models.md says where energies are looked for.
    """
    from edge_eds.apps.inspection import inspect_model
    from edge_eds.apps.inspection_text import describe
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import Terminal, finish

    document = inspect_model(SessionOptions(model, lora, energy))
    if not as_json:
        terminal = Terminal()
        for text, style in describe(document):
            terminal.show(text, style)
    finish(document, as_json, out)
