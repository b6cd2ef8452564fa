"""``paretune report RUN``: rebuild ``front.csv`` and ``report.html`` from the files of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json


def report(
    run: opt.RunFolder,
    show: Annotated[bool, typer.Option("--open", help="Open report.html in the browser.")] = False,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary/--no-summary", help="Print the one-screen summary too (bytes, nat, seconds)."
        ),
    ] = True,
    json: opt.Json = False,
) -> None:
    """Rebuild front.csv (SI units: B, s, J, nat) and report.html from a run folder; nothing is evaluated."""
    from paretune.pipeline.run import Run

    found = Run(run)
    page = found.report()
    if json:
        print_json(found.document())
    else:
        print(*([found.summary()] if summary else []), page, sep="\n")
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
