"""The harness against physics: a known sleep, a known allocation, a machine that slows down."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from paretune.engines.operation import Operation
from paretune.profiles import harness
from paretune.profiles.harness import distinct_operations, time_operations
from tests.profiles.fakes import ROUND, FakeEngine, linear


def timed(engine, operations, seconds=0.2, working_set_bytes=1000, **options):
    return time_operations(engine, operations, working_set_bytes, seconds, device=ROUND, **options)


def test_a_known_sleep():
    engine = FakeEngine()
    short, long = linear(1, 2, 1), linear(1, 8, 1)
    table = timed(engine, [short, long], seconds=0.3)
    assert 2e-3 <= table.find(short).seconds < 6e-3
    assert 8e-3 <= table.find(long).seconds < 16e-3
    one = table.find(short)
    assert (one.device, one.engine, one.engine_version) == ("round", "fake", "1")
    assert one.n >= 3
    assert one.spread_s >= 0
    assert one.date


def test_equal_operations_are_timed_once_and_in_the_order_given():
    engine = FakeEngine()
    asked = [linear(1, 1, 2, count=3), linear(1, 1, 1), linear(1, 1, 2, count=5, note="again")]
    table = timed(engine, asked, seconds=0.01)
    assert [each.operation.k for each in table.rows] == [2, 1]
    assert all(each.operation.count == 1 for each in table.rows)
    assert len(engine.built) == 2
    assert len(distinct_operations(asked)) == 2


def test_the_time_box_holds():
    start = time.perf_counter()
    timed(FakeEngine(), [linear(1, 5, k) for k in range(1, 5)], seconds=0.2)
    assert 0.15 < time.perf_counter() - start < 1.5


def test_one_round_at_least_when_the_box_is_too_small():
    engine = FakeEngine()
    table = timed(engine, [linear(1, 20, 1), linear(1, 20, 2)], seconds=0.001)
    assert all(each.n >= 1 for each in table.rows)


def test_kernels_take_turns():
    engine = FakeEngine()
    operations = [linear(1, 3, k) for k in (1, 2, 3)]
    timed(engine, operations, seconds=0.1)
    rounds = [engine.calls[start : start + 3] for start in range(6, len(engine.calls) - 3, 3)]
    assert all({each.k for each in calls} == {1, 2, 3} for calls in rounds)
    assert len({calls[0].k for calls in rounds}) == 3, "no kernel always goes first"


def test_a_machine_that_slows_down_slows_all_alike(monkeypatch):
    clock = {"now": 0.0, "factor": 1.0}

    class Slowing(FakeEngine):
        def kernel(self, operation: Operation, working_set_bytes: int):
            def run() -> None:
                clock["factor"] *= 1.001
                clock["now"] += operation.n * 1e-3 * clock["factor"]

            return run

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock["now"])
    operations = [linear(1, 1, 1), linear(1, 2, 1), linear(1, 4, 1)]
    rows = timed(Slowing(), operations, seconds=3.0).rows
    assert rows[1].seconds / rows[0].seconds == pytest.approx(2, rel=0.02)
    assert rows[2].seconds / rows[0].seconds == pytest.approx(4, rel=0.02)


def test_short_runs_are_timed_in_bursts(monkeypatch):
    clock = {"now": 0.0}

    class Quick(FakeEngine):
        def kernel(self, operation: Operation, working_set_bytes: int):
            def run() -> None:
                clock["now"] += 1e-6

            return run

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock["now"])
    found = timed(Quick(), [linear(1, 1, 1)], seconds=0.01).rows[0]
    assert found.seconds == pytest.approx(1e-6)
    assert "200 runs" in found.how


def test_a_known_allocation_stays_inside_the_memory_allowed():
    size = 4 * 2**20

    class Holding(FakeEngine):
        def kernel(self, operation: Operation, working_set_bytes: int):
            held = np.ones(working_set_bytes, dtype=np.uint8)
            return held[:1].sum

    operations = [linear(1, 1, k) for k in range(1, 9)]
    tracemalloc.start()
    timed(Holding(), operations, seconds=0.01, working_set_bytes=size, memory_bytes=2 * size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The kernels of a chunk are let go before those of the next one are made.
    assert 2 * size <= peak < 2.5 * size


def test_rivals_are_timed_side_by_side():
    engine = FakeEngine()
    operations = [linear(1, 1, k, kernel) for kernel in ("fp32", "int4") for k in (1, 2, 3)]
    timed(engine, operations, seconds=0.01, working_set_bytes=10, memory_bytes=20)
    built = [operation.k for operation, _ in engine.built]
    assert built == [1, 1, 2, 2, 3, 3]
    assert {size for _, size in engine.built} == {10}


def test_progress_is_told():
    told = []
    timed(
        FakeEngine(),
        [linear(1, 1, k) for k in range(1, 5)],
        seconds=0.01,
        working_set_bytes=10,
        memory_bytes=20,
        progress=lambda what, done, total: told.append((done, total)),
    )
    assert told == [(2, 4), (4, 4)]
