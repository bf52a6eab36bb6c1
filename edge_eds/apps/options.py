"""The options that mean the same in every command: each has its one home here.

Light on purpose: `edge-eds --help` imports this, so nothing here may import NumPy or llama.cpp.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A GGUF file, or hf:USER/REPO[:QUANT]; the default model if left out.",
        show_default=False,
    ),
]
Lora = Annotated[
    Path | None,
    typer.Option("--lora", metavar="PATH", help="LoRA adapter (GGUF) to apply to MODEL.", show_default=False),
]
Energy = Annotated[
    str,
    typer.Option(
        "--energy",
        metavar="auto|none|PATH",
        help="Energies to steer with: found by name, none at all, or a file (hf:USER/REPO: on a hub).",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", help="How hard to steer: 1 as tuned (the default), 0 not at all.", show_default=False),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads; llama.cpp chooses if left out.", show_default=False),
]
Ctx = Annotated[
    int | None,
    typer.Option("--ctx", help="Tokens that a conversation may have.", show_default=False),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed for everything random.", show_default=False),
]
ChatFormat = Annotated[
    str | None,
    typer.Option(
        "--chat-format",
        metavar="NAME",
        help="Chat format in place of the GGUF's own template, e.g. chatml.",
        show_default=False,
    ),
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.", show_default=False)]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Sampling temperature; 0 takes the likeliest token.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="PATH", help="Write the result to this file as well.", show_default=False),
]
EnergyOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="PATH",
        help="Write the energy file here; beside MODEL if left out.",
        show_default=False,
    ),
]
Prompts = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompts",
        metavar="PATH",
        help="CSV, JSON or JSONL file of prompts (repeatable); the built-in ones if left out.",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="Be done in this time, e.g. 10m, 1h or 4h (15m if left out, more where the model is too slow for it); "
        "all: ask every prompt.",
        show_default=False,
    ),
]
MaxLost = Annotated[
    float | None,
    typer.Option(
        "--max-lost",
        metavar="SHARE",
        help="Point of the trade: true refusals that may be lost, e.g. 0.05; the safe one if left out.",
        show_default=False,
    ),
]
Work = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="FOLDER",
        help="Where the stages keep their work; a cache if left out.",
        show_default=False,
    ),
]
