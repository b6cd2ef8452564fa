"""Operations that are in no table: between two points, beyond them, and not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.engines.operation import Operation
from paretune.profiles.interpolation import OperationCosts, UnknownCostError, operation_floor_s
from tests.profiles.fakes import ROUND, linear, table


def costs(measured: dict[Operation, float]) -> OperationCosts:
    return OperationCosts(table(measured), ROUND)


def test_a_measured_operation_is_itself():
    found = costs({linear(4, 64, 32): 5e-6}).estimate(linear(4, 64, 32, count=9))
    assert (found.seconds, found.how) == (5e-6, "measured")


def test_a_power_law_is_met_exactly():
    measured = {linear(m, 64, 32): 1e-6 * m**0.7 for m in (1, 8, 64)}
    found = costs(measured).estimate(linear(20, 64, 32))
    assert found.how == "interpolated"
    assert found.seconds == pytest.approx(1e-6 * 20**0.7)


@given(st.integers(2, 99))
def test_between_two_points_lies_between_them(m):
    found = costs({linear(1, 64, 32): 2e-6, linear(100, 64, 32): 9e-6}).estimate(linear(m, 64, 32))
    assert 2e-6 < found.seconds < 9e-6


def test_the_nearest_two_points_are_used():
    measured = {linear(m, 64, 32): s for m, s in ((1, 1e-6), (2, 7e-6), (8, 7e-6), (64, 1e-3))}
    assert costs(measured).estimate(linear(4, 64, 32)).seconds == pytest.approx(7e-6)


def test_a_longer_cache_is_interpolated_too():
    def attention(tokens: int) -> Operation:
        return Operation("attention", "decode", "sdpa", 1, tokens, 32, heads=4, kv_heads=2)

    found = costs({attention(64): 1e-6, attention(256): 4e-6}).estimate(attention(128))
    assert found.how == "interpolated"
    assert found.seconds == pytest.approx(2e-6)


@pytest.mark.parametrize("wanted", [linear(1, 128, 32), linear(128, 64, 32), linear(1, 64, 64)])
def test_beyond_the_table_the_nearest_kin_is_scaled_by_its_roofline(wanted):
    known = linear(1, 64, 32)
    found = costs({known: 5e-6}).estimate(wanted)
    assert found.how == "scaled"
    ratio = operation_floor_s(wanted, ROUND) / operation_floor_s(known, ROUND)
    assert found.seconds == pytest.approx(5e-6 * ratio)


def test_scaling_starts_from_the_nearest():
    known = {linear(1, 64, 32): 1.0, linear(1, 1024, 1024): 2e-6}
    assert costs(known).estimate(linear(1, 1024, 1000)).seconds == pytest.approx(2e-6, rel=0.1)


@pytest.mark.parametrize(
    "wanted", [linear(1, 64, 32, "int4"), Operation("embedding", "decode", "fp32", 1, 9, 8)]
)
def test_another_kernel_is_never_guessed(wanted):
    with pytest.raises(UnknownCostError, match="paretune profile"):
        costs({linear(1, 64, 32): 1e-6}).estimate(wanted)


def test_floors_by_hand():
    # 1,000 x 1,000 weights and 2 x 1,000 numbers of 4 bytes at 1e12 B/s; 2e6 operations are faster.
    assert operation_floor_s(linear(1, 1000, 1000), ROUND) == pytest.approx(4.008e-6)
    assert operation_floor_s(linear(1, 1000, 1000, "int4", num_bits=4), ROUND) == pytest.approx(0.508e-6)
    # 1,000 tokens: 2e9 operations at 1e13 a second take longer than 12 MB.
    assert operation_floor_s(linear(1000, 1000, 1000), ROUND) == pytest.approx(2e-4)
    assert operation_floor_s(linear(1000, 1000, 1000, sparsity=0.5), ROUND) == pytest.approx(1e-4)
