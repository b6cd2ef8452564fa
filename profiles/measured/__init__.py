"""Cost tables that ship with Paretune: kernels timed on a device, for advice without that device."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from paretune.profiles.table import CostTable


@cache
def shipped_table() -> CostTable:
    """All rows of the tables in this folder."""
    tables = [CostTable.read(file) for file in sorted(Path(__file__).parent.glob("*.json"))]
    return CostTable(rows=tuple(row for table in tables for row in table.rows))
