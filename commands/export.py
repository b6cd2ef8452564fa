"""``paretune export RUN``: write a member of a front as a checkpoint, load it again, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    name: Annotated[
        str | None, typer.Option(help="Member to export; the recommended configuration if left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; RUN/export/NAME if left out.")] = None,
    refine: Annotated[
        str | None,
        typer.Option(
            help="Make the weights again for this configuration: gptq (in sequence), autoround or qat."
        ),
    ] = None,
    ladder: Annotated[
        int | None,
        typer.Option(
            min=2, help="Rungs (count): the member and safer ones to fall back to, into RUN/ladder."
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="Container that transformers loads: compressed-tensors (the usual one), bitsandbytes, gptq or awq."
        ),
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Prefixes (count) with reference answers for `paretune monitor`; 16 a rung with --ladder, else none.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> int:
    """Export a member; the engine loads it in a fresh process and its KL to the candidate is printed (nat)."""
    from paretune.pipeline.exporting import (
        check_ladder,
        export_line,
        export_member,
        folder_name,
        in_form,
        refined_member,
        wanted_member,
    )
    from paretune.pipeline.ladder import CANARIES, export_ladder, ladder_lines
    from paretune.pipeline.output import Stages
    from paretune.pipeline.run_file import validate_run
    from paretune.pipeline.workbench import open_workbench
    from paretune.reports.reading import read_run_folder
    from paretune.search.run_folder import lock_run_folder

    check_ladder(ladder, refine)
    found = read_run_folder(run)
    member = wanted_member(found.front, name)
    settings = validate_run(found.run.settings, f"{run}/run.json")
    with lock_run_folder(run):
        stages = Stages(quiet)
        bench = in_form(open_workbench(settings, run, stages), form)
        if ladder is not None:
            place = out or run / "ladder"
            rungs = export_ladder(bench, found.front.members, member, ladder, place, canaries or CANARIES)
            print(ladder_lines(place, rungs))
            return 0
        place = out or run / "export" / folder_name(member.name, refine, bench.engine.form_name)
        refined = None if refine is None else refined_member(bench, member, refine, place, stages)
        done = export_member(bench, member, place, refined, canaries=canaries)
    if refined is not None:
        print(refined.line)
    print(export_line(done))
    return 0
