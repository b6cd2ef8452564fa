"""``paretune export RUN``: write a member of a front as a checkpoint, load it again, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json
from paretune.spaces.errors import RunError


def export(
    run: opt.RunFolder,
    name: opt.Name = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to write; RUN/export/NAME or RUN/ladder if left out."),
    ] = None,
    refine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Make the weights again for this configuration: gptq (in sequence), autoround or qat.",
        ),
    ] = None,
    ladder: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Rungs (count): the member and safer ones to fall back to, into RUN/ladder.",
        ),
    ] = None,
    container: opt.Container = None,
    canaries: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Prefixes (count) with reference answers for `paretune monitor`; 16 a rung with --ladder, else none.",
        ),
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Export a member; the engine loads it in a fresh process and its KL to the candidate is printed (nat)."""
    from paretune.pipeline.exporting import export_line
    from paretune.pipeline.ladder import ladder_lines
    from paretune.pipeline.run import CANARIES, Run

    found = Run(run)
    if ladder is None:
        done = [
            found.export(
                name, out=out, refine=refine, container=container, canaries=canaries, progress=not quiet
            )
        ]
    elif refine is None:
        done = found.export_ladder(
            ladder, name, out=out, container=container, canaries=canaries or CANARIES, progress=not quiet
        )
    else:
        raise RunError(
            "--refine with --ladder", "makes weights of one member", "Refine a member without --ladder"
        )
    if json:
        print_json(done if ladder else done[0])
    else:
        print(ladder_lines(out or run / "ladder", done) if ladder else export_line(done[0]))
    return 0
