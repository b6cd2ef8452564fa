"""Compared models on the terminal: a short table each."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.reports.compared_rows import Beside, beside_front
from paretune.reports.reading import read_run_folder

if TYPE_CHECKING:
    from rich.console import Console


def summarize_compared(run_folder: Path, labels: Collection[str] = (), width: int | None = None) -> str:
    """The compared models of a run as text.

    Args:
        run_folder: with ``compared.json``.
        labels: of those to show; all if left out.
        width: columns; the terminal's if left out, 100 where there is none.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    from rich.console import Console

    folder = read_run_folder(run_folder)
    terminal = sys.stdout.isatty()
    columns = width or (min(shutil.get_terminal_size().columns, 120) if terminal else 100)
    text = io.StringIO()
    console = Console(
        file=text, width=columns, force_terminal=terminal, color_system="standard" if terminal else None,
        highlight=False, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    file = folder.compared
    for model in () if file is None else file.models:
        if file is not None and (not labels or model.label in labels):
            _print(console, beside_front(file, folder.front, model))
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines()) + "\n"


def _print(console: Console, beside: Beside) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title_justify="left", title_style="")
    model, member = beside.model, beside.member
    table.title = f"{model.label}: compared, not searched ({model.numbers}, {model.loaded_by})"
    nearest = "no front with sizes" if member is None else f"{member.name} (front)"
    for heading in ("", model.label, nearest, "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in beside.rows:
        table.add_row(row.heading, row.own, row.nearest, row.gap, style="bold" if row.clear else "")
    console.print(table)
    for note in model.notes:
        console.print(f"! {note}", style="yellow", soft_wrap=True)
    console.print()
