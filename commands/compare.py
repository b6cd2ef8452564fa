"""``paretune compare RUN --checkpoint PATH``: a model that nobody searched, on the same plot and tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json


def compare(
    run: opt.RunFolder,
    checkpoint: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL", help="Model folder (quantized or not), hub id or .gguf file; repeat for more."
        ),
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help="What a checkpoint is called, in the order of --checkpoint; its own name if left out.",
        ),
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Judge other checkpoints on the report text and tasks of a run (B, nat, bit) and draw them beside its front."""
    from paretune.pipeline.api import load_run
    from paretune.reports.summary import summarize_compared

    rows = load_run(run).compare(checkpoint, label or (), progress=not quiet)
    if json:
        print_json(
            [
                row.model_dump(mode="json", exclude={"measurements": {"__all__": {"per_window"}}})
                for row in rows
            ]
        )
        return
    print(summarize_compared(run, [row.label for row in rows]))
    print(run / "report.html")
