"""Whether quantizing can make the model slower: by the data sheet, and by kernels that were timed, here or on kin."""

from __future__ import annotations

from paretune.profiles.candidates import Scored
from paretune.profiles.devices import find_device
from paretune.profiles.measured import shipped_table
from paretune.profiles.roofline import RESOURCES
from paretune.profiles.table import CostRow, CostTable
from paretune.spaces.errors import UnknownNameError
from paretune.spaces.numerals import percent, quantity, times
from paretune.spaces.schema import Frozen
from paretune.spaces.target import Device

_DENSE_KERNELS = ("bf16", "fp32")
_KERNELS = {"int4": "int4", "int8-both": "int8", "fp8": "fp8"}
"""Kernel of the measured tables that a candidate's products are."""
_VISIBLE = 1.02
_NO_GAIN = 0.95


def slowdowns(dense: Scored, found: Scored) -> tuple[str, ...]:
    """Statements about one quantized candidate; none where nothing speaks for a slowdown."""
    statements = [*_by_sheet(dense, found)]
    if all(choice.activation is None for choice in found.candidate.config.layers.values()):
        statements += _expanding(dense, found)
    statements += _as_seen(found)
    return tuple(statements)


def expanded_prefill_s(dense: Scored, found: Scored) -> float:
    """Prefill of a weight-only format when weights are expanded in memory before each product.

    The packed weights are read and 16-bit ones written, then the dense product runs.
    """
    target = found.target
    dense_bytes = dense.weight_bytes - (found.weight_bytes - found.quantized_bytes)
    moved = (found.quantized_bytes + dense_bytes) / target.workload.tensor_parallel
    return dense.floors.prefill.seconds + moved / target.device.bandwidth_bytes_per_s


def _by_sheet(dense: Scored, found: Scored) -> list[str]:
    statements = []
    for phase in ("prefill", "decode"):
        before, after = getattr(dense.floors, phase), getattr(found.floors, phase)
        if after.seconds > _VISIBLE * before.seconds:
            more = after.kernels - before.kernels
            statements.append(
                f"Slower in {phase} by the data sheet alone: {quantity(after.seconds, 's')} instead of "
                f"{quantity(before.seconds, 's')}, because rounding inputs starts {more:,} more kernels "
                f"({quantity(after.launches_s - before.launches_s, 's')}) than reading fewer bytes saves."
            )
    return statements


def _expanding(dense: Scored, found: Scored) -> list[str]:
    before, after = dense.floors.prefill, found.floors.prefill
    worst = expanded_prefill_s(dense, found)
    longer = (
        f"{quantity(worst, 's')}, {percent((worst - before.seconds) / before.seconds)} longer than as it is"
    )
    if after.seconds > _NO_GAIN * before.seconds:
        return [
            f"No faster in prefill: {quantity(after.seconds, 's')} instead of {quantity(before.seconds, 's')}, of "
            f"which {quantity(after.compute_s, 's')} is arithmetic, and that stays {found.case.dense_arithmetic}. "
            f"An engine that expands the weights in memory before each product takes {longer}; one that "
            "expands them inside the product can hide most of that.",
            *_no_gain_in_decode(dense, found),
        ]
    return [
        f"Slower in prefill if the engine expands the weights in memory before each product: {longer}. "
        f"Expanded inside the product it can take {quantity(after.seconds, 's')}.",
        *_no_gain_in_decode(dense, found),
    ]


def _no_gain_in_decode(dense: Scored, found: Scored) -> list[str]:
    before, after = dense.floors.decode, found.floors.decode
    if after.seconds <= _NO_GAIN * before.seconds:
        return []
    return [
        f"No faster in decode at this batch: {quantity(after.seconds, 's')} instead of "
        f"{quantity(before.seconds, 's')}, because {RESOURCES[after.binds]}, is what binds."
    ]


def _as_seen(found: Scored) -> list[str]:
    kernel = _KERNELS.get(found.candidate.name)
    pairs = seen(kernel, found.target.device) if kernel is not None else ()
    if not pairs or pairs[0].slowdown < _VISIBLE:
        return []
    worst, best = pairs[0], pairs[-1]
    told = f"Seen on {find_device(worst.row.device).label} with {_origin(worst)}: {_shape(worst)}"
    if best.slowdown < 1:
        told += f"; {_shape(best)}"
    return [told + ". The engine's kernel decides, not the format."]


def _origin(pair: Seen) -> str:
    row = pair.row
    return f"{row.operation.note or row.operation.kernel} of {row.engine} {row.engine_version}"


def _shape(pair: Seen) -> str:
    operation = pair.row.operation
    ratio = pair.slowdown
    verdict = f"{times(ratio)} slower" if ratio > 1 else f"{times(1 / ratio)} faster"
    return (
        f"{operation.m:,} token{'s' if operation.m > 1 else ''} x ({operation.n:,} x {operation.k:,}) take "
        f"{quantity(pair.row.seconds, 's')} against {quantity(pair.dense.seconds, 's')} dense, {verdict}"
    )


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
