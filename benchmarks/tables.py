"""Tables of results: CSV whose first lines, beginning with ``#``, say machine, versions and date."""

from __future__ import annotations

import csv
import datetime
import io
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from commands.files import versions

RESULTS = Path(__file__).resolve().parent / "results"


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
    """Write ``results/NAME.csv``: provenance, header, plain numbers; what is absent is an empty cell."""
    columns = list(columns)
    buffer = io.StringIO()
    for note in (f"machine: {machine()}", f"versions: {_versions()}", f"date: {_today()}", *notes):
        buffer.write(f"# {note}\n")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if row.get(key) is None else row[key] for key in columns})
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
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


def beside(
    name: str, fresh: Sequence[Mapping[str, object]], key: Sequence[str]
) -> list[Mapping[str, object]]:
    """Rows of an earlier table, and the fresh ones in place of those that agree with one in all columns of ``key``."""
    measured = {tuple(str(row[column]) for column in key) for row in fresh}
    kept = [row for row in read_table(name) if tuple(str(row[column]) for column in key) not in measured]
    return [*kept, *fresh]


def _versions() -> str:
    return ", ".join([f"python {platform.python_version()}", *(f"{k} {v}" for k, v in versions().items())])


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
