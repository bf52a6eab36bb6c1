"""`edge-eds serve`: the options; the server itself is in server/, imported when it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_eds.apps import options


def command(
    model: options.Model = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0 for the whole network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 takes any that is free.")] = 8080,
    port_file: Annotated[
        Path | None,
        typer.Option(
            "--port-file", metavar="PATH", help="Write the port here once connections are taken.", show_default=False
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help="Key that clients must send.",
            envvar="EDGE_EDS_API_KEY",
            show_default=False,
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors", metavar="ORIGIN", help="Origin of web pages that may ask (repeatable).", show_default=False
        ),
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", metavar="NAME", help="Name of the model for clients.", show_default=False)
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", help="Answers decoded side by side.")] = 1,
    queue: Annotated[int, typer.Option("--queue", help="Requests that may wait; more are told to come back.")] = 16,
    max_tokens: options.MaxTokens = 4096,
    max_body: Annotated[int, typer.Option("--max-body", help="Largest request, in bytes.")] = 4 * 1024 * 1024,
    timeout: Annotated[float, typer.Option("--timeout", help="Longest time for a request, in seconds.")] = 600.0,
    temperature: options.Temperature = 0.0,
    lora: options.Lora = None,
    energy: options.Energy = "auto",
    strength: options.Strength = None,
    threads: options.Threads = None,
    ctx: options.Ctx = None,
    seed: options.Seed = None,
    chat_format: options.ChatFormat = None,
) -> None:
    """Serve the model to programs that speak OpenAI's API.

    The model has two names: NAME is steered, NAME:plain is not. --temperature and --seed are for requests that do not
    say. SIGTERM finishes what runs.
    """
    from edge_eds.apps.extras import require
    from edge_eds.apps.settings import SessionOptions

    for package in ("fastapi", "uvicorn", "sse_starlette", "prometheus_client"):
        require(package, "serve")
    from edge_eds.apps.server.running import serve
    from edge_eds.apps.server.settings import ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        port_file=port_file,
        api_key=api_key,
        cors=tuple(cors or ()),
        parallel=parallel,
        queue=queue,
        max_tokens=max_tokens,
        max_body=max_body,
        timeout=timeout,
        temperature=temperature,
        seed=seed,
        alias=alias,
    )
    serve(SessionOptions(model, lora, energy, strength, threads, ctx, chat_format), settings)
