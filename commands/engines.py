"""``paretune engines``: which engines are found, where, at which version, and how to get the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.commands import options as opt
from paretune.commands.printing import console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from paretune.pipeline.inspection import EngineRow


def engines(json: opt.Json = False) -> None:
    """List every engine: found or not, where, at which version, how to install it, and where a search for it runs."""
    from dataclasses import asdict

    from paretune.pipeline.api import list_engines

    rows = list_engines()
    if json:
        print_json([asdict(row) for row in rows])
    else:
        show(rows)


def show(rows: list[EngineRow], page: Console | None = None) -> None:
    """Print the table, and below it what is missing and why."""
    from rich.box import SIMPLE
    from rich.table import Table

    page, table = page or console(), Table(box=SIMPLE, pad_edge=False)
    for heading in ("engine", "runs here", "search", "version", "found through"):
        table.add_column(heading, no_wrap=heading != "found through", overflow="fold")
    for row in rows:
        runs = "yes" if row.runs else "no"
        table.add_row(row.engine, runs, row.searches, row.version or "-", row.source or "-")
    page.print(table)
    pythons = dict.fromkeys(row.python for row in rows if row.python)
    lines = [
        f"{', '.join(row.engine for row in rows if row.python == python)}: {python}" for python in pythons
    ]
    for row in rows:
        lines += [
            f"{row.engine}, container {form}: {reason or 'can be loaded'}"
            for form, reason in row.forms.items()
        ]
        lines += [f"{row.engine}: {row.reason}"] if row.reason else []
    for line in lines:
        page.print(line, highlight=False, markup=False, soft_wrap=True)
