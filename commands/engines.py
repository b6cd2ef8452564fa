"""``paretune engines``: which engines are found, where, at which version, and how to get the others."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 110
"""Columns where there is no terminal to ask."""


@dataclass(frozen=True)
class EngineRow:
    """What is known of one registered engine.

    Attributes:
        engine: registered name.
        found: whether an interpreter with its package is known.
        version: of the package, empty where it is not found.
        python: the interpreter that has it, empty where it is not found.
        source: who named that interpreter.
        runs: whether it runs on this machine.
        reason: why it is not found or does not run, and what to do about it.
        forms: of checkpoints that it loads, where it has several: why one cannot be loaded here and what to install,
            empty if it can.
    """

    engine: str
    found: bool
    version: str
    python: str
    source: str
    runs: bool
    reason: str
    forms: dict[str, str] = field(default_factory=dict)


def engines(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List every engine: found or not, where, at which version, and how to install it if not."""
    rows = engine_rows()
    if json:
        _print_json(rows)
    else:
        show(rows)


def engine_rows() -> list[EngineRow]:
    """One row a registered engine, in the order of the register; nothing is refused."""
    from paretune.engines import engine_names

    return [_row(name) for name in engine_names()]


def _row(name: str) -> EngineRow:
    from paretune.engines import find_engine
    from paretune.engines.environments import find_environment
    from paretune.spaces.errors import EngineError

    try:
        found = find_environment(name)
    except EngineError as error:
        return EngineRow(name, False, "", "", "", False, str(error))
    verdict = find_engine(name).available()
    if found is None:
        return EngineRow(name, False, "", "", "", False, verdict.reason or f"{name} is not installed")
    version = f"{found.package} {found.version}"
    forms = _forms() if name == "transformers" else {}
    return EngineRow(
        name, True, version, str(found.python), found.source, verdict.legal, verdict.reason, forms
    )


def _forms() -> dict[str, str]:
    from paretune.engines.forms import find_form, form_names

    return {name: find_form(name).available().reason for name in form_names()}


def _print_json(rows: list[EngineRow]) -> None:
    import json

    print(json.dumps([asdict(row) for row in rows], indent=2))


def show(rows: list[EngineRow], console: Console | None = None) -> None:
    """Print the table, and below it what is missing and why."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = console or (Console() if sys.stdout.isatty() else Console(width=_WIDTH, color_system=None))
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("engine", "runs here", "version", "found through"):
        table.add_column(heading, no_wrap=heading != "found through", overflow="fold")
    for row in rows:
        table.add_row(row.engine, "yes" if row.runs else "no", row.version or "-", row.source or "-")
    console.print(table)
    for python in dict.fromkeys(row.python for row in rows if row.python):
        names = ", ".join(row.engine for row in rows if row.python == python)
        console.print(f"{names}: {python}", highlight=False, markup=False, soft_wrap=True)
    for row in rows:
        for form, reason in row.forms.items():
            said = f"{row.engine}, form {form}: {reason or 'can be loaded'}"
            console.print(said, highlight=False, markup=False, soft_wrap=True)
        if row.reason:
            console.print(f"{row.engine}: {row.reason}", highlight=False, markup=False, soft_wrap=True)
