"""``front.csv``: a line per row of ``front.json``. Plain SI numbers, empty where nothing was measured.

The columns are documented in ``docs/run-folder.md``; their order never depends on what was measured first.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from paretune.reports.comparison import task_names
from paretune.spaces.files import write_whole
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import FRONT_COLUMNS, FrontFile, Member

PREDICTED_COLUMNS = ("ttft_s_predicted", "tpot_s_predicted", "energy_j_per_token_predicted")
STANDING_COLUMNS = ("kind", "on_front", "recommended")
"""What a row is, at the end of it: ``front``, ``baseline`` or ``probe``; then ``true`` or ``false``."""


def front_columns(front: FrontFile) -> tuple[str, ...]:
    """Columns of ``front.csv``: the fixed ones, every task by name with its standard error, what the row is."""
    pairs = (column for name in task_names(front) for column in (f"task.{name}", f"task.{name}_stderr"))
    return (*FRONT_COLUMNS, "kl_search", *PREDICTED_COLUMNS, *pairs, *STANDING_COLUMNS)


def front_rows(front: FrontFile) -> list[dict[str, str | float | None]]:
    """One mapping per row, in the order of ``front.json``; ``None`` where nothing was measured."""
    columns = [column for column in front_columns(front) if column not in STANDING_COLUMNS]
    return [
        {**{column: cell(member, column) for column in columns}, **_standing(member, front.recommended)}
        for member in front.members
    ]


def _standing(member: Member, recommended: str) -> dict[str, str | float | None]:
    said = (member.kind, *(str(is_so).lower() for is_so in (member.on_front, member.name == recommended)))
    return dict(zip(STANDING_COLUMNS, said, strict=True))


def cell(member: Member, column: str) -> str | float | None:
    """What stands in a column: predictions in ``*_predicted`` only, measured values in the others only."""
    if column == "digest":
        return member.digest
    if column == "name":
        return member.name
    found = _measurement(member, column)
    if found is not None:
        return found.value
    if column.endswith("_stderr"):
        base = _measurement(member, column.removesuffix("_stderr"))
        return None if base is None else base.stderr
    return None


def write_front_csv(front: FrontFile, path: Path) -> Path:
    """Write ``front.csv``; it appears whole.

    Raises:
        RunError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = front_columns(front)
    writer.writerow(columns)
    for row in front_rows(front):
        writer.writerow(["" if row[column] is None else _plain(row[column]) for column in columns])
    return write_whole(path, text.getvalue())


def _measurement(member: Member, column: str) -> Measurement | None:
    found = member.measurements.get(column)
    if found is None:
        base = member.measurements.get(column.removesuffix("_predicted"))
        return base if column.endswith("_predicted") and base and base.source == "predicted" else None
    # A prediction that was stored under the name of the measurement does not become one.
    return None if found.source == "predicted" and not column.endswith("_predicted") else found


def _plain(value: str | float | None) -> str:
    if isinstance(value, float):
        # Whole numbers (bytes) without a fraction; the rest in the shortest form that reads back the same.
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)
