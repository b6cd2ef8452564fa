"""Whether quantizing can make the model slower, and by how much: by the data sheet, and by what was seen."""

from __future__ import annotations

from paretune.profiles.binding import NAMES
from paretune.profiles.devices import find_device
from paretune.profiles.evidence import Seen, seen
from paretune.profiles.scored import Scored
from paretune.profiles.wording import duration, share, times

_KERNELS = {"int4": "int4", "int8-both": "int8", "fp8": "fp8"}
"""Kernel of the measured tables that a candidate's products are."""
_VISIBLE = 1.02
_NO_GAIN = 0.95


def slowdowns(dense: Scored, found: Scored) -> tuple[str, ...]:
    """Statements about one quantized candidate; none where nothing speaks for a slowdown."""
    statements = [*_by_sheet(dense, found)]
    execution = found.candidate.execution
    if execution.arithmetic is None and not execution.rounds_inputs:
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
                f"Slower in {phase} by the data sheet alone: {duration(after.seconds)} instead of "
                f"{duration(before.seconds)}, because rounding inputs starts {more:,} more kernels "
                f"({duration(after.launches_s - before.launches_s)}) than reading fewer bytes saves."
            )
    return statements


def _expanding(dense: Scored, found: Scored) -> list[str]:
    before, after = dense.floors.prefill, found.floors.prefill
    worst = expanded_prefill_s(dense, found)
    longer = f"{duration(worst)}, {share(worst - before.seconds, before.seconds)} longer than as it is"
    if after.seconds > _NO_GAIN * before.seconds:
        return [
            f"No faster in prefill: {duration(after.seconds)} instead of {duration(before.seconds)}, of "
            f"which {duration(after.compute_s)} is arithmetic, and that stays {found.case.dense_arithmetic}. "
            f"An engine that expands the weights in memory before each product takes {longer}; one that "
            "expands them inside the product can hide most of that.",
            *_no_gain_in_decode(dense, found),
        ]
    return [
        f"Slower in prefill if the engine expands the weights in memory before each product: {longer}. "
        f"Expanded inside the product it can take {duration(after.seconds)}.",
        *_no_gain_in_decode(dense, found),
    ]


def _no_gain_in_decode(dense: Scored, found: Scored) -> list[str]:
    before, after = dense.floors.decode, found.floors.decode
    if after.seconds <= _NO_GAIN * before.seconds:
        return []
    return [
        f"No faster in decode at this batch: {duration(after.seconds)} instead of "
        f"{duration(before.seconds)}, because {NAMES[after.binds]}, is what binds."
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
        f"{duration(pair.row.seconds)} against {duration(pair.dense.seconds)} dense, {verdict}"
    )
