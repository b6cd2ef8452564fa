"""From a table to any operation: found, interpolated along one axis, or scaled from its kin, and told so.

Between two measured points of a line (same kernel and shape, but for ``m`` or ``n``) time is a power of the
size, so interpolation is linear in logarithms. Elsewhere the nearest row of the same kernel is scaled by the
ratio of the two operations' rooflines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from paretune.engines.operation import Operation
from paretune.profiles.roofline import operation_floor_s
from paretune.profiles.table import CostRow, CostTable
from paretune.spaces.errors import ParetuneError
from paretune.spaces.target import Device

_AXES = ("m", "n")


class UnknownCostError(ParetuneError):
    """An operation whose kernel was never timed on this device."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of one run, and where they come from: ``measured``, ``interpolated`` or ``scaled``."""

    seconds: float
    how: str


class OperationCosts:
    """Looks operations up in a table.

    Args:
        table: rows of one engine on one device.
        device: data sheet for the rooflines that rows are scaled by.
    """

    def __init__(self, table: CostTable, device: Device) -> None:
        self.table = table
        self.device = device
        self._known: dict[tuple[object, ...], Estimate] = {}

    def estimate(self, operation: Operation) -> Estimate:
        """Seconds of one run of ``operation``.

        Raises:
            UnknownCostError: no operation of this kernel is in the table.
        """
        found = self._known.get(operation.key)
        if found is None:
            found = self._known[operation.key] = self._estimate(operation)
        return found

    def _estimate(self, operation: Operation) -> Estimate:
        row = self.table.find(operation)
        if row is not None:
            return Estimate(row.seconds, "measured")
        kin = self._kin.get((operation.kind, operation.kernel), [])
        if not kin:
            shape = f"{operation.m} x {operation.n} x {operation.k}"
            raise UnknownCostError(
                f"{operation.kind} of {shape} with kernel {operation.kernel}",
                f"no operation of that kernel was timed on {self.device.name}",
                "Measure again with `paretune profile`",
            )
        for axis in _AXES:
            seconds = interpolate(operation, kin, axis)
            if seconds is not None:
                return Estimate(seconds, "interpolated")
        nearest = min(kin, key=lambda row: _distance(row.operation, operation))
        ratio = operation_floor_s(operation, self.device) / operation_floor_s(nearest.operation, self.device)
        return Estimate(nearest.seconds * ratio, "scaled")

    @cached_property
    def _kin(self) -> dict[tuple[str, str], list[CostRow]]:
        found: dict[tuple[str, str], list[CostRow]] = {}
        for row in self.table.rows:
            found.setdefault((row.operation.kind, row.operation.kernel), []).append(row)
        return found


def interpolate(operation: Operation, rows: list[CostRow], axis: str) -> float | None:
    """Seconds between the two rows that differ along ``axis`` alone; ``None`` if they do not enclose it."""
    at = getattr(operation, axis)
    line = {
        getattr(row.operation, axis): row.seconds
        for row in rows
        if replace(row.operation, **{axis: at}).key == operation.key
    }
    below = [size for size in line if size < at]
    above = [size for size in line if size > at]
    if not below or not above:
        return None
    low, high = max(below), min(above)
    slope = math.log(line[high] / line[low]) / math.log(high / low)
    return line[low] * float((at / low) ** slope)


def _distance(one: Operation, other: Operation) -> float:
    sizes = ("m", "n", "k", "batch", "heads", "kv_heads")
    apart: float = sum(abs(math.log(max(1, getattr(one, s)) / max(1, getattr(other, s)))) for s in sizes)
    formats = ("num_bits", "group_size", "symmetric", "sparsity")
    differing = sum(bool(getattr(one, name) != getattr(other, name)) for name in formats)
    return apart + differing
