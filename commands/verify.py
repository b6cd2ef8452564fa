"""``paretune verify EXPORT``: an engine loads an export; its predictions are held against the searched candidate."""

from __future__ import annotations

from typing import Annotated

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json


def verify(
    export: opt.ExportFolder,
    engine: opt.Engine = None,
    run: opt.Run = None,
    windows: Annotated[
        int, typer.Option(metavar="N", min=1, help="Windows of the report text that are read (count).")
    ] = 16,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Check hashes, load the export in the engine, compare with the searched candidate; exit code 1 if another.

    Without --engine it is loaded by the one that it was written for.
    """
    from paretune.pipeline.api import verify as verify_export

    found = verify_export(export, engine=engine, run=run, windows=windows, progress=not quiet)
    if json:
        print_json(found.document())
    else:
        print(found.line)
    return 0
