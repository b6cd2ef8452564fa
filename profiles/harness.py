"""Times an engine's kernels: medians over interleaved rounds, each distinct one once, in a time box.

In every round each kernel runs in turn, so that a machine that slows down slows all of them alike. Kernels
that together need more memory than allowed are timed in chunks, rivals (the same shape in other formats) side
by side. A run shorter than the clock can tell is repeated in a burst. Kernels rotate their operands through
the working set themselves (:meth:`paretune.engines.profiled_engine.ProfiledEngine.kernel`).
"""

from __future__ import annotations

import datetime
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from paretune.engines.operation import Operation
from paretune.profiles.devices import detect_device
from paretune.profiles.table import CostRow, CostTable

if TYPE_CHECKING:
    from paretune.engines.profiled_engine import Kernel, ProfiledEngine
    from paretune.spaces.target import Device

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done and how many there are."""

BURST_S = 2e-4
"""Shortest stretch that is timed at once."""
LEAST_ROUNDS = 3
"""Rounds of a chunk, unless a single one takes longer than the time box."""
MOST_ROUNDS = 500
MEMORY_BYTES = 2**30


@dataclass
class _Timed:
    operation: Operation
    kernel: Kernel
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)


def time_operations(
    engine: ProfiledEngine,
    operations: Iterable[Operation],
    working_set_bytes: int,
    seconds: float,
    *,
    device: Device | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
) -> CostTable:
    """Time every distinct operation.

    Args:
        engine: whose kernels run.
        operations: counts and phases do not matter, equal keys are timed once.
        working_set_bytes: that operands rotate through: the bytes of the model at hand.
        seconds: time box of the whole; what cannot be interleaved often enough is timed in fewer rounds, and
            every operation at least once.
        device: where they run; this machine's if left out.
        memory_bytes: that the kernels of one chunk may hold together.
        progress: told after every chunk.

    Returns:
        One row an operation, in the order given.
    """
    distinct = distinct_operations(operations)
    chunks = list(_chunks(distinct, max(1, memory_bytes // max(1, working_set_bytes))))
    deadline = time.perf_counter() + seconds
    rows: dict[tuple[object, ...], CostRow] = {}
    name = (device or detect_device()).name
    done = 0
    for chunk in chunks:
        share = (deadline - time.perf_counter()) * len(chunk) / (len(distinct) - done)
        timed = _time_chunk(engine, chunk, working_set_bytes, share)
        rows.update((one.operation.key, _row(engine, name, one, working_set_bytes)) for one in timed)
        del timed  # lets go of the kernels before those of the next chunk are made
        done += len(chunk)
        if progress is not None:
            progress("timing operations", done, len(distinct))
    return CostTable(rows=tuple(rows[operation.key] for operation in distinct))


def distinct_operations(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """One of each key, counted once, in the order of first appearance."""
    found: dict[tuple[object, ...], Operation] = {}
    for operation in operations:
        found.setdefault(operation.key, replace(operation, count=1, note=""))
    return tuple(found.values())


def _chunks(operations: Sequence[Operation], most: int) -> Iterator[list[Operation]]:
    rivals_together = sorted(operations, key=lambda each: (each.kind, each.n, each.k, each.m))
    for start in range(0, len(rivals_together), most):
        yield rivals_together[start : start + most]


def _time_chunk(
    engine: ProfiledEngine, chunk: list[Operation], working_set_bytes: int, seconds: float
) -> list[_Timed]:
    deadline = time.perf_counter() + seconds
    timed = [_Timed(each, engine.kernel(each, working_set_bytes)) for each in chunk]
    for one in timed:
        one.kernel()  # the first run allocates and compiles
        one.repeats = max(1, round(BURST_S / max(_burst(one), 1e-9)))
    rounds = 0
    while rounds < MOST_ROUNDS:
        offset = rounds % len(timed)  # so that no kernel always follows the same one
        start = time.perf_counter()
        for one in timed[offset:] + timed[:offset]:
            one.seconds.append(_burst(one))
        rounds += 1
        now = time.perf_counter()
        if now >= deadline and (rounds >= LEAST_ROUNDS or now - start > seconds):
            break
    return timed


def _burst(one: _Timed) -> float:
    start = time.perf_counter()
    for _ in range(one.repeats):
        one.kernel()
    return (time.perf_counter() - start) / one.repeats


def _row(engine: ProfiledEngine, device: str, timed: _Timed, working_set_bytes: int) -> CostRow:
    values = timed.seconds
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else None
    return CostRow(
        device=device,
        engine=engine.name,
        engine_version=engine.version(),
        operation=timed.operation,
        seconds=statistics.median(values),
        spread_s=None if quartiles is None else (quartiles[2] - quartiles[0]) / 2,
        n=len(values),
        working_set_bytes=working_set_bytes,
        threads=_threads(),
        how=f"median of interleaved rounds of {timed.repeats} runs, rotating operands",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else os.cpu_count() or 1
