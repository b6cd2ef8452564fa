"""The exact additive front against enumeration of everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.additive import exact_front, relaxed_front

parameters = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 50)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


def _arrays(problem):
    costs = [np.array([cost for cost, _ in parameter], dtype=float) for parameter in problem]
    sensitivities = [
        np.array([sensitivity for _, sensitivity in parameter], dtype=float) for parameter in problem
    ]
    return costs, sensitivities


def _enumerated(problem):
    """All non-dominated totals, cheapest first."""
    totals = sorted(
        (sum(c for c, _ in picks), sum(d for _, d in picks)) for picks in itertools.product(*problem)
    )
    front = []
    for cost, sensitivity in totals:
        if not front or sensitivity < front[-1][1]:
            front.append((cost, sensitivity))
    return front


@given(parameters)
def test_front_is_the_enumerated_one(problem):
    front = exact_front(*_arrays(problem))
    assert front.exact
    assert list(zip(front.costs, front.sensitivities, strict=True)) == _enumerated(problem)


@given(parameters)
def test_points_reach_what_is_said(problem):
    costs, sensitivities = _arrays(problem)
    front = exact_front(costs, sensitivities)
    for point, cost, sensitivity in zip(
        front.points(np.arange(len(front))), front.costs, front.sensitivities, strict=True
    ):
        assert sum(c[g] for c, g in zip(costs, point, strict=True)) == cost
        assert sum(d[g] for d, g in zip(sensitivities, point, strict=True)) == sensitivity


@given(parameters)
def test_negative_costs_are_as_good(problem):
    shifted = [[(cost - 7, sensitivity) for cost, sensitivity in parameter] for parameter in problem]
    front = exact_front(*_arrays(shifted))
    assert list(zip(front.costs, front.sensitivities, strict=True)) == _enumerated(shifted)


def test_coarse_grid_says_so_and_stays_near():
    random = np.random.default_rng(3)
    costs = [np.sort(random.uniform(0, 1000, 6)) for _ in range(6)]
    sensitivities = [np.sort(random.uniform(0, 1, 6))[::-1].copy() for _ in range(6)]
    front = exact_front(costs, sensitivities, most_cells=6 * 4000)
    assert not front.exact
    whole = _enumerated([list(zip(c, d, strict=True)) for c, d in zip(costs, sensitivities, strict=True)])
    for cost, sensitivity in whole[:: max(1, len(whole) // 40)]:
        there = front.sensitivities[np.searchsorted(front.costs, cost + 10, side="right") - 1]
        assert there <= sensitivity + 1e-12


def test_one_choice_each():
    front = exact_front([np.array([3.0]), np.array([4.0])], [np.array([1.0]), np.array([2.0])])
    assert (front.costs.tolist(), front.sensitivities.tolist()) == ([7.0], [3.0])
    assert front.points(np.array([0])).tolist() == [[0, 0]]


@pytest.mark.parametrize("refused", [np.inf])
def test_infinite_sensitivity_is_never_picked(refused):
    front = exact_front([np.array([0.0, 5.0])], [np.array([refused, 1.0])])
    assert front.sensitivities.tolist() == [1.0]


def _totals(arrays, points):
    return np.array([sum(values[g] for values, g in zip(arrays, point, strict=True)) for point in points])


def _shuffled(random, items):
    mixed = list(items)
    random.shuffle(mixed)
    return mixed


@given(parameters, st.randoms())
def test_order_of_parameters_and_choices_changes_nothing(problem, random):
    mixed = _shuffled(random, [_shuffled(random, parameter) for parameter in problem])
    one, other = exact_front(*_arrays(problem)), exact_front(*_arrays(mixed))
    assert np.array_equal(one.costs, other.costs)
    assert np.array_equal(one.sensitivities, other.sensitivities)


@given(parameters, st.integers(0, 4), st.tuples(st.integers(0, 20), st.integers(0, 60)))
def test_another_choice_never_hurts(problem, place, choice):
    """Whatever was within reach still is, at no more sensitivity."""
    more = [list(parameter) for parameter in problem]
    more[place % len(more)].append(choice)
    after = exact_front(*_arrays(more))
    for cost, sensitivity in _enumerated(problem):
        assert after.sensitivities[np.searchsorted(after.costs, cost, side="right") - 1] <= sensitivity


@given(parameters, st.integers(1, 10**9))
def test_a_common_divisor_keeps_the_grid_short(problem, unit):
    """Gigabytes in steps of a large unit need no more levels than the same costs in steps of one."""
    costs, sensitivities = _arrays(problem)
    scaled = exact_front([cost * unit for cost in costs], sensitivities, most_cells=len(problem) * 60)
    assert scaled.exact
    assert [
        (cost / unit, sensitivity)
        for cost, sensitivity in zip(scaled.costs, scaled.sensitivities, strict=True)
    ] == (_enumerated(problem))


@given(parameters, st.data())
def test_some_members_in_any_order(problem, data):
    front = exact_front(*_arrays(problem))
    wanted = data.draw(st.lists(st.integers(0, len(front) - 1), max_size=5))
    some = front.points(np.array(wanted, dtype=np.int64))
    assert some.shape == (len(wanted), len(problem))
    assert np.array_equal(some, front.points(np.arange(len(front)))[wanted])


@given(parameters, st.data())
def test_refused_choices_are_never_picked(problem, data):
    """One choice a parameter stays open, the others may have infinite sensitivity."""
    allowed = [data.draw(st.sets(st.integers(0, len(parameter) - 1), min_size=1)) for parameter in problem]
    costs, sensitivities = _arrays(problem)
    for sensitivity, open_ones in zip(sensitivities, allowed, strict=True):
        sensitivity[[choice for choice in range(len(sensitivity)) if choice not in open_ones]] = np.inf
    front = exact_front(costs, sensitivities)
    left = [
        [parameter[c] for c in sorted(open_ones)]
        for parameter, open_ones in zip(problem, allowed, strict=True)
    ]
    assert list(zip(front.costs, front.sensitivities, strict=True)) == _enumerated(left)
    for point in front.points(np.arange(len(front))):
        assert all(choice in open_ones for choice, open_ones in zip(point, allowed, strict=True))


wide_parameters = st.lists(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 50)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@given(wide_parameters, st.integers(16, 200))
def test_a_coarse_grid_is_off_by_half_a_level_a_parameter(problem, levels):
    """Sensitivities are exact for the points they belong to; costs, and what is missed, are within the rounding."""
    costs, sensitivities = _arrays(problem)
    front = exact_front(costs, sensitivities, most_cells=levels * len(problem))
    points = front.points(np.arange(len(front)))
    span = sum(cost.max() - cost.min() for cost in costs)
    off = 0.0 if front.exact else 0.5 * len(problem) * span / (levels // 2) + 1e-6
    assert np.array_equal(_totals(sensitivities, points), front.sensitivities)
    assert np.abs(_totals(costs, points) - front.costs).max() <= off
    assert (np.diff(front.costs) > 0).all()
    assert (np.diff(front.sensitivities) < 0).all()
    for cost, sensitivity in _enumerated(problem):
        assert front.sensitivities[np.searchsorted(front.costs, cost + off, side="right") - 1] <= sensitivity


@given(wide_parameters, st.integers(16, 200))
def test_exact_is_claimed_where_the_levels_fit(problem, levels):
    costs, sensitivities = _arrays(problem)
    front = exact_front(costs, sensitivities, most_cells=levels * len(problem))
    if front.exact:
        assert list(zip(front.costs, front.sensitivities, strict=True)) == _enumerated(problem)
    else:
        assert sum(cost.max() - cost.min() for cost in costs) > levels


def test_fractions_of_a_byte_are_not_exact():
    front = exact_front([np.array([0.0, 0.5])], [np.array([1.0, 0.0])])
    assert not front.exact
    assert front.costs == pytest.approx([0.0, 0.5])


def test_golden_front():
    """Two parameters, the first twice as large: of nine pairs of widths (2, 8), (4, 2), (8, 2) and (8, 4) are
    beaten."""
    costs, sensitivities = [np.array([20, 40, 80]), np.array([10, 20, 40])], [np.array([9.0, 3.0, 0.5])] * 2
    front = exact_front(costs, sensitivities)
    assert front.exact
    assert front.costs.tolist() == [30, 40, 60, 80, 120]
    assert front.sensitivities.tolist() == [18, 12, 6, 3.5, 1]
    assert front.points(np.arange(5)).tolist() == [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2]]


@pytest.mark.parametrize(("cells", "exact"), [(100, True), (99, False)])
def test_no_more_levels_than_allowed(cells, exact):
    """A thousand bytes in steps of ten are a hundred levels."""
    front = exact_front([np.array([0, 10, 1000])], [np.array([3.0, 2.0, 1.0])], most_cells=cells)
    assert front.exact == exact


def test_a_coarse_grid_rounds_to_the_nearest_level():
    """Levels of 1.0: 0.9 is stated as 1, and 3.2 as 3: a stated cost may lie below the real one."""
    front = exact_front([np.array([0.0, 0.9, 3.2, 8.0])], [np.array([4.0, 3.0, 2.0, 1.0])], most_cells=16)
    assert not front.exact
    assert front.costs.tolist() == [0.0, 1.0, 3.0, 8.0]


def test_parameters_of_many_choices():
    choices = np.arange(300.0)
    front = exact_front([choices], [choices[::-1].copy()])
    assert front.points(np.array([299, 200])).tolist() == [[299], [200]]


@given(st.integers(0, 2**32 - 1))
def test_whole_solutions_of_the_relaxation_are_members_of_the_exact_front(seed):
    """Each is the least loss of all combinations that cost no more; the ends are those of the front."""
    random = np.random.default_rng(seed)
    costs = [random.integers(0, 30, 4).astype(float) for _ in range(4)]
    losses = [random.integers(0, 100, 4).astype(float) for _ in range(4)]
    exact = exact_front(costs, losses)
    known = dict(zip(exact.costs.tolist(), exact.sensitivities.tolist(), strict=True))
    for point in relaxed_front(costs, losses):
        cost = sum(c[k] for c, k in zip(costs, point, strict=True))
        assert known[cost] == sum(loss[k] for loss, k in zip(losses, point, strict=True))
    assert {min(known), max(known)} <= {
        sum(c[k] for c, k in zip(costs, point, strict=True)) for point in relaxed_front(costs, losses)
    }
