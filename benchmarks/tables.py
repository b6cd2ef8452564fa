"""Tables of results: CSV whose first lines, beginning with ``#``, say machine, versions and date.

Where rows of an earlier table stay, so do its lines, and one is added for the fresh rows:
``rows of engine vllm, config random-00 or random-01, DATE: machine; versions``. Of two lines that name a row the later
one holds; the first three hold of rows that none names.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from paretune.pipeline.files import versions

RESULTS = Path(__file__).resolve().parent / "results"
_ROWS_OF = re.compile(r"# rows of (?P<names>.+?), \d{4}-\d\d-\d\d: ")


class Kept(dict[str, object]):
    """A row of an earlier table that stays; ``key`` are the columns whose values tell it from every other row."""

    def __init__(self, row: Mapping[str, object], key: Sequence[str]) -> None:
        super().__init__(row)
        self.key = tuple(key)


def machine() -> str:
    """Processor and cores, in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores{_gpu()}"


def _gpu() -> str:
    import torch

    return f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""


def write_table(
    name: str, columns: Iterable[str], rows: Iterable[Mapping[str, object]], notes: Iterable[str] = ()
) -> Path:
    """Write ``results/NAME.csv``: provenance, header, plain numbers; what is absent is an empty cell.

    Rows are those measured here and now, and such as :func:`beside` kept: what was written of these stays.
    """
    columns, rows, path = list(columns), list(rows), RESULTS / f"{name}.csv"
    buffer = io.StringIO()
    for line in _provenance(path, rows, notes):
        buffer.write(f"{line}\n")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if row.get(key) is None else row[key] for key in columns})
    RESULTS.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(buffer.getvalue(), encoding="utf-8")
    temporary.replace(path)
    return path


def read_table(name: str) -> list[dict[str, object]]:
    """Rows of an earlier table; none if there is no such table."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [dict(row) for row in csv.DictReader(lines)]


def beside(name: str, fresh: Sequence[Mapping[str, object]], key: Sequence[str]) -> list[dict[str, object]]:
    """Rows of an earlier table, and the fresh ones in place of those that agree with one in all columns of ``key``."""
    measured = {_cells(row, key) for row in fresh}
    kept = [Kept(row, key) for row in read_table(name) if _cells(row, key) not in measured]
    return [*kept, *map(dict, fresh)]


def stamp() -> str:
    """Date, machine and versions in one line."""
    return f"{_today()}: {machine()}; {_versions()}"


def _provenance(path: Path, rows: Iterable[Mapping[str, object]], notes: Iterable[str]) -> list[str]:
    """Lines for fresh rows alone; else those that the table has, notes that are new, and what the fresh rows add."""
    rows = list(rows)
    kept = [row for row in rows if isinstance(row, Kept)]
    fresh = [row for row in rows if not isinstance(row, Kept)]
    notes = [f"# {note}" for note in notes]
    here = [f"# machine: {machine()}", f"# versions: {_versions()}", f"# date: {_today()}"]
    if not kept:
        return [*here, *notes]
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    old = [line for line in lines if _speaks_of_any(line, kept)]
    apart = fresh and lines[: len(here)] != here  # else the first three hold of them too
    added = [f"# rows of {_in_words(names)}, {stamp()}" for names in _names(fresh, kept)] if apart else []
    return [*old, *(note for note in notes if note not in old), *added]


def _names(
    fresh: Sequence[Mapping[str, object]], kept: Sequence[Kept]
) -> Iterator[dict[str, tuple[str, ...]]]:
    """Values of key columns that all fresh rows have and no kept one: of few columns, those they share first.

    Where no such values tell them apart, in several parts.
    """
    key = kept[0].key
    values = {column: tuple(dict.fromkeys(_cells(row, [column])[0] for row in fresh)) for column in key}
    names: dict[str, tuple[str, ...]] = {}
    for column in sorted(key, key=lambda column: len(values[column])):
        if len(values[column]) > 1 and not _any_is(names, kept):
            break
        names[column] = values[column]
    if not _any_is(names, kept):
        yield names
        return
    split = next(column for column in names if len(values[column]) > 1)
    for value in values[split]:
        yield from _names([row for row in fresh if _cells(row, [split]) == (value,)], kept)


def _in_words(names: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{column} {' or '.join(values)}" for column, values in names.items())


def _speaks_of_any(line: str, kept: Sequence[Kept]) -> bool:
    """Whether a line holds of a row that stays; one that names no columns of the table may."""
    found = _ROWS_OF.match(line)
    if found is None:
        return True
    parts = [part.partition(" ") for part in found["names"].split(", ")]
    names = {column: tuple(values.split(" or ")) for column, _, values in parts}
    return not names.keys() <= kept[0].keys() or _any_is(names, kept)


def _any_is(names: Mapping[str, tuple[str, ...]], rows: Iterable[Mapping[str, object]]) -> bool:
    return any(all(_cells(row, [column])[0] in values for column, values in names.items()) for row in rows)


def _cells(row: Mapping[str, object], columns: Iterable[str]) -> tuple[str, ...]:
    """As they stand in the file."""
    return tuple("" if row[column] is None else str(row[column]) for column in columns)


def _versions() -> str:
    return ", ".join([f"python {platform.python_version()}", *(f"{k} {v}" for k, v in versions().items())])


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
