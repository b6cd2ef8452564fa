"""What was seen: measured kernels beside the dense kernel of the same shape, here or on the nearest kin."""

from __future__ import annotations

from paretune.profiles.devices import find_device
from paretune.profiles.measured import shipped_table
from paretune.profiles.table import CostRow, CostTable
from paretune.spaces.errors import UnknownNameError
from paretune.spaces.schema import Frozen
from paretune.spaces.target import Device

_DENSE_KERNELS = ("bf16", "fp32")


class Seen(Frozen):
    """A kernel beside the dense one.

    Attributes:
        row, dense: the two rows; same device, engine and shape.
    """

    row: CostRow
    dense: CostRow

    @property
    def slowdown(self) -> float:
        """Times the dense kernel takes; above 1 is slower."""
        return self.row.seconds / self.dense.seconds


def seen(kernel: str, device: Device, table: CostTable | None = None) -> tuple[Seen, ...]:
    """Every shape at which ``kernel`` was timed beside the dense kernel, slowest first.

    Rows of the device itself are taken where there are some, else those of its generation, else nothing.
    """
    rows = (shipped_table() if table is None else table).rows
    near = [row for row in rows if row.device == device.name]
    near = near or [row for row in rows if _generation(row.device) == device.generation]
    pairs = [
        Seen(row=row, dense=dense)
        for row in near
        if row.operation.kernel == kernel
        for dense in near
        if _comparable(row, dense)
    ]
    return tuple(sorted(pairs, key=lambda pair: pair.slowdown, reverse=True))


def _comparable(row: CostRow, dense: CostRow) -> bool:
    one, other = row.operation, dense.operation
    same = (one.kind, one.m, one.n, one.k) == (other.kind, other.m, other.n, other.k)
    origin = (row.device, row.engine, row.engine_version) == (
        dense.device,
        dense.engine,
        dense.engine_version,
    )
    return same and origin and other.kernel in _DENSE_KERNELS and not other.sparsity


def _generation(device: str) -> str:
    try:
        return find_device(device).generation
    except UnknownNameError:
        return ""
