"""What commands print: JSON, tables, errors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from paretune.spaces.errors import ParetuneError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH = 110
"""Columns where there is no terminal to ask."""


def print_error(error: ParetuneError) -> None:
    """One block on standard error: what was found, the rule, the remedy."""
    print(f"error: {error.value}\n  rule:   {error.rule}\n  remedy: {error.remedy}", file=sys.stderr)


def print_json(document: Any) -> None:
    """On standard output."""
    print(json.dumps(document, indent=2))


def console(width: int = _WIDTH) -> Console:
    """Of standard output: plain text of a fixed width where that is no terminal."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    return Console(width=width, color_system=None, highlight=False, markup=False)


def table(first: str, *numbers: str, title: str | None = None) -> Table:
    """A table whose columns are aligned to the right but for the first."""
    from rich.box import SIMPLE
    from rich.table import Table

    found = Table(first, title=title, box=SIMPLE, padding=(0, 0, 0, 1))
    for heading in numbers:
        found.add_column(heading, justify="right")
    return found
