"""``paretune engines``: which engines are found, where, at which version, and how to get the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.commands import options as opt
from paretune.commands.printing import console, print_json, table

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
    """Print the table, and below it where each was found, and what is missing and why."""
    page, shown = page or console(), table("engine")
    for heading in ("runs here", "search", "version"):
        shown.add_column(heading, no_wrap=True)
    for row in rows:
        shown.add_row(row.engine, "yes" if row.runs else "no", row.searches, row.version or "-")
    page.print(shown)
    places: dict[str, list[str]] = {}
    for row in rows:
        if row.python:
            places.setdefault(f"{row.source}, {row.python}", []).append(row.engine)
    lines = [f"{', '.join(names)}: {place}" for place, names in places.items()]
    for row in rows:
        loaded = [form for form, reason in row.forms.items() if not reason]
        lines += [f"{row.engine} loads the containers {', '.join(loaded)}"] if loaded else []
        lines += [
            f"{row.engine} does not load the container {form}: {reason}"
            for form, reason in row.forms.items()
            if reason
        ]
        lines += [f"{row.engine}: {row.reason}"] if row.reason else []
    for line in lines:
        page.print(line, highlight=False, markup=False)
