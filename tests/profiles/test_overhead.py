"""The overhead fit: exact where data are, never negative, not led astray by one bad time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.profiles.overhead import Overhead, fit_overhead

BLOCKS = [4, 8, 12, 16, 16, 8]
KERNELS = [1e-3, 2e-3, 1.5e-3, 4e-3, 2e-3, 1e-3]


def measured(per_block: float, constant: float, share: float = 0.0) -> list[float]:
    return [(1 + share) * k + per_block * b + constant for b, k in zip(BLOCKS, KERNELS, strict=True)]


@given(st.floats(0, 1e-3), st.floats(0, 1e-2), st.floats(0, 1))
def test_every_term_is_recovered(per_block, constant, share):
    found = fit_overhead(BLOCKS, KERNELS, measured(per_block, constant, share))
    assert found.per_block_s == pytest.approx(per_block, abs=1e-9)
    assert found.constant_s == pytest.approx(constant, abs=1e-8)
    assert found.kernel_share == pytest.approx(share, abs=1e-6)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.n == 6


def test_a_share_needs_times_that_show_it():
    few = fit_overhead(BLOCKS[:5], KERNELS[:5], measured(1e-4, 1e-3, 0.5)[:5])
    alike = fit_overhead(BLOCKS, [1e-3] * 6, [1e-3 + 1e-4 * b for b in BLOCKS])
    assert few.kernel_share == alike.kernel_share == 0
    assert alike.per_block_s == pytest.approx(1e-4)


def test_one_bad_time_hardly_matters():
    times = measured(1e-4, 1e-3) * 2
    times[2] *= 5
    found = fit_overhead(BLOCKS * 2, KERNELS * 2, times)
    assert found.per_block_s == pytest.approx(1e-4, rel=0.1)
    assert found.constant_s == pytest.approx(1e-3, rel=0.2)


def test_an_overhead_is_never_negative():
    found = fit_overhead(BLOCKS, KERNELS, [0.5 * k for k in KERNELS])
    terms = (found.per_block_s, found.constant_s, found.kernel_share)
    assert all(0 <= term < 1e-9 for term in terms)
    assert found.error == pytest.approx(1)


def test_one_depth_lays_everything_on_the_blocks():
    found = fit_overhead([8, 8, 8], [1e-3] * 3, [1.8e-3] * 3)
    assert found.per_block_s == pytest.approx(1e-4)
    assert found.constant_s == 0
    assert found.seconds(4, 1.0) == pytest.approx(4e-4)


def test_without_times_there_is_no_overhead():
    assert fit_overhead([], [], []) == Overhead()
