"""``paretune export RUN``: write a member of a front as a checkpoint, load it again, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json
from paretune.spaces.errors import RunError


def export(
    run: opt.RunFolder,
    name: opt.Name = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder to write; RUN/export/NAME, RUN/bundle/NAME or RUN/ladder if left out.",
        ),
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
    bundle: Annotated[
        bool,
        typer.Option(
            "--bundle",
            help="Write a folder to copy to the server too: model, reference predictions, serve.sh.",
        ),
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Export a member; the engine loads it in a fresh process and its KL to the candidate is printed (nat)."""
    from paretune.pipeline.exporting import export_line
    from paretune.pipeline.ladder import ladder_lines
    from paretune.pipeline.run import CANARIES, Run

    if ladder is not None and (refine is not None or bundle):
        raise RunError(
            f"{'--bundle' if bundle else '--refine'} with --ladder",
            "is for one member; a ladder is a folder to copy by itself",
            "Leave one of them out",
        )
    found, more = Run(run), dict[str, Any](out=out, container=container, progress=not quiet)
    if ladder is None:
        done = [found.export(name, refine=refine, canaries=canaries, bundle=bundle, **more)]
    else:
        done = found.export_ladder(ladder, name, canaries=canaries or CANARIES, **more)
    if json:
        print_json(done if ladder else done[0])
    else:
        print(ladder_lines(out or run / "ladder", done) if ladder else export_line(done[0]))
    return 0
