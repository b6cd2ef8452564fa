"""One screen for the terminal: what was found, what it is worth, what fell short, what to do next."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.reports.answer import (
    Answer,
    advantage_words,
    find_answer,
    quality_sentence,
    size_sentence,
    speed_sentence,
)
from paretune.reports.compared import Beside, beside_front
from paretune.reports.comparison import front_members, retention, task_names
from paretune.reports.latency import latency_error, latency_words
from paretune.reports.next_steps import next_steps
from paretune.reports.reading import RunFolder, read_run_folder
from paretune.reports.shortfalls import ending, shortfalls, untrusted
from paretune.reports.tables import member_columns
from paretune.spaces.numerals import change_with_error, counted, digits, duration
from paretune.spaces.result import Member

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_ROWS = 7
"""Members shown; the table of all is in the report."""
_COLUMNS = {
    "size": "size",
    "bits": "bits",
    "KL, report text (nat)": "KL (nat)",
    "same top-1": "same top",
    "time/token, measured": "time/token",
    "time/token, predicted": "predicted",
    "tasks vs dense": "tasks vs dense",
}
"""Of the report's table, under headings that fit a terminal."""
_IMPORTANT = ["size", "KL (nat)", "bits", "time/token", "tasks vs dense", "same top", "predicted"]
_GAP = 3
_NOTES = 6
"""Shortfalls and notes shown."""


def summarize(run_folder: Path, width: int | None = None, color: bool | None = None) -> str:
    """The summary of a run folder as text.

    Args:
        run_folder: what ``paretune search`` wrote.
        width: columns; the terminal's if left out, 100 where there is none.
        color: with escape codes; by default only on a terminal.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    folder = read_run_folder(run_folder)
    return _printed(lambda console: _print(console, folder), width, color)


def summarize_compared(run_folder: Path, labels: Collection[str] = (), width: int | None = None) -> str:
    """The compared models of a run as text: a short table each.

    Args:
        run_folder: with ``compared.json``.
        labels: of those to show; all if left out.
        width: columns; the terminal's if left out, 100 where there is none.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    folder = read_run_folder(run_folder)

    def tables(console: Console) -> None:
        for beside in beside_front(folder.compared, folder.front):
            if not labels or beside.model.label in labels:
                _print_compared(console, beside)

    return _printed(tables, width, None)


def _printed(tell: Callable[[Console], None], width: int | None, color: bool | None) -> str:
    """What ``tell`` prints, plain where there is no terminal."""
    from rich.console import Console

    terminal = sys.stdout.isatty() if color is None else color
    columns = width or (min(shutil.get_terminal_size().columns, 120) if sys.stdout.isatty() else 100)
    text = io.StringIO()
    tell(
        Console(
            file=text, width=columns, force_terminal=terminal, color_system="standard" if terminal else None,
            no_color=not terminal, highlight=False, markup=False, emoji=False, legacy_windows=False,
        )
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines()) + "\n"


def _print(console: Console, folder: RunFolder) -> None:
    answer = find_answer(folder)
    console.print(_heading(folder), style="bold")
    for line in _found(answer):
        console.print(line)
    console.print()
    console.print(_table(folder, answer, console.width))
    for line in [
        advantage_words(folder.front),
        _retention_line(folder, answer),
        _latency_line(folder),
        _export_line(folder),
    ]:
        if line:
            console.print(line)
    lines = [*shortfalls(folder), *folder.run.notes]
    for line in lines[:_NOTES]:
        console.print(f"! {line}", style="yellow")
    if len(lines) > _NOTES:
        console.print(f"! and {len(lines) - _NOTES} more in the report", style="yellow")
    console.print()
    console.print(f"report {folder.path / 'report.html'}, table {folder.path / 'front.csv'}", soft_wrap=True)
    for words, command in next_steps(folder):
        console.print(f"{words} ", style="dim", end="")
        console.print(command, style="bold", soft_wrap=True)


def _heading(folder: RunFolder) -> str:
    run = folder.run
    device = run.device.get("label") or run.device.get("name") or "an unnamed device"
    facts = [f"{run.model.get('source', 'model')} for {device} ({run.engine})"]
    facts.append(f"{counted(len({trial.digest for trial in folder.trials}), 'candidate')} read")
    spent = sum(run.spent.values())
    facts += [f"{duration(spent)} in all"] if spent else []
    return f"{', '.join(str(fact) for fact in facts)}. {ending(run)}."


def _found(answer: Answer) -> list[str]:
    if answer.recommended is None:
        return [answer.why_none]
    parts = [
        text for text in (size_sentence(answer), quality_sentence(answer), speed_sentence(answer)) if text
    ]
    return [f"recommended: {answer.recommended.name}", *(f"  {text}" for text in parts)]


def _table(folder: RunFolder, answer: Answer, width: int) -> RenderableType:
    from rich import box
    from rich.table import Table

    members = front_members(folder.front)
    shown = _thinned(members, answer)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title_justify="left", title_style="")
    table.title = f"front: {counted(len(members), 'member')}" + (
        f", {len(shown)} shown" if len(shown) < len(members) else ""
    )
    beside = [row for row in (answer.uniform, answer.dense) if row is not None and row not in shown]
    own = "" if answer.recommended is None else answer.recommended.name
    names = [f"{member.name} *" if member.name == own else member.name for member in [*shown, *beside]]
    columns = member_columns(folder.front)
    cells = {
        short: [columns[name](member) for member in [*shown, *beside]] for name, short in _COLUMNS.items()
    }
    kept, taken = {"name": names}, max(map(len, names))
    # The most important first; what does not fit is left out whole, for a number that is cut is none.
    for heading in sorted(cells, key=_IMPORTANT.index):
        wide = max(map(len, [heading, *cells[heading]])) + _GAP
        if any(cells[heading]) and taken + wide <= width:
            taken += wide
            kept[heading] = cells[heading]
    for heading in ["name", *(heading for heading in cells if heading in kept)]:
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for number, name in enumerate(names):
        style = "bold green" if name == f"{own} *" else "dim" if number >= len(shown) else ""
        row = [name, *(cells[heading][number] for heading in cells if heading in kept)]
        table.add_row(*row, style=style, end_section=number == len(shown) - 1)
    return table


def _thinned(members: tuple[Member, ...], answer: Answer) -> list[Member]:
    """At most seven members spread over the front; the recommended configuration is always among them."""
    if len(members) <= _ROWS:
        return list(members)
    chosen = {round(step * (len(members) - 1) / (_ROWS - 1)) for step in range(_ROWS)}
    names = [member.name for member in members]
    if answer.recommended is not None and answer.recommended.name in names:
        wanted = names.index(answer.recommended.name)
        if wanted not in chosen:
            # The nearest neighbour gives way, but never an end of the front.
            inner = chosen - {0, len(members) - 1}
            chosen = (chosen - {min(inner, key=lambda index: abs(index - wanted))}) | {wanted}
    return [members[index] for index in sorted(chosen)]


def _retention_line(folder: RunFolder, answer: Answer) -> str:
    if answer.recommended is None or answer.dense is None:
        return ""
    kept = (retention(answer.recommended, answer.dense, task) for task in task_names(folder.front))
    shown = [
        f"{one.task} {change_with_error(one.ratio, one.stderr)}{' (clearly lower)' if one.clear else ''}"
        for one in kept
        if one is not None
    ]
    return (
        f"task scores of {answer.recommended.name} beside the dense model's: {', '.join(shown)}"
        if shown
        else ""
    )


def _latency_line(folder: RunFolder) -> str:
    """How far predictions are off, where that is no shortfall, which says it itself."""
    error = latency_error(folder.run.latency_checks)
    return "" if error is None or untrusted(error) else latency_words(error)


def _export_line(folder: RunFolder) -> str:
    export = folder.run.export
    if export is None or "failed" in export:
        return ""
    gap = export.get("kl_to_candidate")
    line = f"exported {export.get('name', '')} to {export.get('folder', '')}"
    if isinstance(gap, int | float):
        line += f" and loaded it again; KL to the searched candidate {digits(float(gap), 2)}"
    return line + _gguf_words(export.get("gguf"))


def _gguf_words(gguf: object) -> str:
    """A second line on the same candidate as GGUF, where it was written."""
    if not isinstance(gguf, dict):
        return ""
    line = f"\nthe same as GGUF in {gguf['folder']}: KL {digits(float(gguf['kl']), 2)} in llama.cpp"
    if "answer" not in gguf:
        return line
    question, answer = str(gguf["prompt"]).splitlines()[-1], str(gguf["answer"]).strip()
    return f"{line}, where it answers {question!r} with {answer!r}"


def _print_compared(console: Console, beside: Beside) -> None:
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
