"""``paretune dashboard RUN``: look at the trials of a run in optuna-dashboard."""

from __future__ import annotations

from typing import Annotated

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json


def dashboard(
    run: opt.RunFolder,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port to listen on.")
    ] = 8080,
    json: opt.Json = False,
) -> None:
    """Serve optuna-dashboard over every scored candidate of a run, until it is interrupted."""
    from paretune.pipeline.run import Run

    if json:
        print_json({"url": f"http://{host}:{port}"})
    Run(run).dashboard(host, port)
