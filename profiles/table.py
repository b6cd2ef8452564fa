"""Measured costs of operations: rows with provenance, found by operation, JSON on disk.

A row says what was run, where, by what, how often and when, so that a figure is never without its origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from paretune.engines.operation import Operation
from paretune.spaces.errors import RunError
from paretune.spaces.files import FileKind, read_document, write_document
from paretune.spaces.schema import Document, Frozen

_TABLE = FileKind("cost table", RunError, "Measure again with `paretune profile`")


class CostRow(Frozen):
    """One operation, timed.

    Attributes:
        device: name of the device.
        engine, engine_version: what ran it.
        operation: what was run; its count is 1.
        seconds: median of one run.
        spread_s: half the distance between the quartiles of the rounds; ``None`` where it was not kept.
        n: rounds behind the median; 0 where it was not kept.
        working_set_bytes: that the operands rotated through.
        threads: of the processor; 0 on a GPU.
        how: method, in words.
        date: ISO date, UTC.
    """

    device: str
    engine: str
    engine_version: str
    operation: Operation
    seconds: float
    spread_s: float | None = None
    n: int = 0
    working_set_bytes: int = 0
    threads: int = 0
    how: str = ""
    date: str = ""


class CostTable(Document):
    """Rows; of several with the same operation the last counts."""

    rows: tuple[CostRow, ...] = ()

    @cached_property
    def _by_key(self) -> dict[tuple[Any, ...], CostRow]:
        return {row.operation.key: row for row in self.rows}

    def find(self, operation: Operation) -> CostRow | None:
        """The row of this operation, whatever its phase and count; ``None`` if it was not timed."""
        return self._by_key.get(operation.key)

    def __contains__(self, operation: object) -> bool:
        return isinstance(operation, Operation) and operation.key in self._by_key

    def of(self, *, device: str, engine: str, engine_version: str) -> CostTable:
        """The rows of one engine on one device."""
        wanted = (device, engine, engine_version)
        rows = tuple(row for row in self.rows if (row.device, row.engine, row.engine_version) == wanted)
        return CostTable(rows=rows)

    def joined(self, rows: Iterable[CostRow]) -> CostTable:
        """The table with newer rows; an operation timed again on the same engine and device is replaced."""
        found = {_identity(row): row for row in self.rows}
        found.update((_identity(row), row) for row in rows)
        return CostTable(rows=tuple(found.values()))

    def write(self, path: Path) -> Path:
        """Save as JSON, whole or not at all; returns ``path``."""
        return write_document(path, self)

    @classmethod
    def read(cls, path: Path) -> CostTable:
        """The table that :meth:`write` left in ``path``.

        Raises:
            RunError: it cannot be read, or is no table.
        """
        return read_document(path, cls, _TABLE)


def _identity(row: CostRow) -> tuple[Any, ...]:
    return (row.device, row.engine, row.engine_version, *row.operation.key)
