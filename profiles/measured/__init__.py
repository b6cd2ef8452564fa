"""Cost tables that ship with Paretune: kernels timed on a device, for advice without that device."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from paretune.profiles.table import CostTable


@cache
def shipped_table() -> CostTable:
    """All rows of the tables in this folder."""
    found = sorted(file.name for file in files(__name__).iterdir() if file.name.endswith(".json"))
    tables = [CostTable.from_json((files(__name__) / name).read_text(encoding="utf-8")) for name in found]
    return CostTable(rows=tuple(row for table in tables for row in table.rows))
