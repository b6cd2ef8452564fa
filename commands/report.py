"""``paretune report RUN``: rebuild ``front.csv`` and ``report.html`` from the files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `paretune search` wrote.")],
    show: Annotated[bool, typer.Option("--open", help="Open report.html in the browser.")] = False,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary/--no-summary", help="Print the one-screen summary too (bytes, nat, seconds)."
        ),
    ] = True,
) -> None:
    """Rebuild front.csv (SI units: B, s, J, nat) and report.html from a run folder; nothing is evaluated."""
    from paretune.reports.report import write_report
    from paretune.reports.summary import summarize

    page = write_report(run)
    if summary:
        print(summarize(run))
    print(page)
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
