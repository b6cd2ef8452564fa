"""``paretune search MODEL``: the main job, from a model to a front, a report and an export that was loaded again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paretune.commands import options as opt
from paretune.pipeline.words import SearchWords, spelled


@spelled(SearchWords, opt.WORDS)
def search(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Model folder or hub id; the embedded model if left out."),
    ] = None,
    *,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what the search would take (minutes, bytes), and what lowers it; then stop.",
        ),
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    **words: Any,
) -> int:
    """Search per-layer bits, sparsity and pruned size; leave a Pareto front, a report and an export."""
    from paretune.commands.printing import print_json
    from paretune.pipeline.api import plan, start_search
    from paretune.pipeline.run import Run

    read = opt.read_words(words)
    if dry_run:
        ahead = plan(model, progress=not quiet, **read)
        if json:
            print_json(ahead.document())
        else:
            print(*ahead.lines(), sep="\n")
        return 0
    done, folder = start_search(model, not quiet, read)
    run = Run(folder)
    if json:
        print_json(run.document())
    else:
        print(run.summary())
    if done.failure is not None:
        raise done.failure
    return 130 if done.interrupted else 0
