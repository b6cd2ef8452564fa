"""Non-dominated points and the volume they dominate, against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.pareto import hypervolume, non_dominated

EDGE = 5


def _points(dimensions):
    return st.lists(st.tuples(*[st.integers(0, EDGE)] * dimensions), min_size=1, max_size=9)


clouds = st.integers(1, 4).flatmap(_points)


def _beats(one, other):
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def _cells(points):
    """Unit cells of the integer grid that some point dominates: the volume by counting."""
    dimensions = len(points[0])
    return sum(
        any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points)
        for cell in itertools.product(range(EDGE), repeat=dimensions)
    )


@given(clouds)
def test_non_dominated_is_its_definition(points):
    found = non_dominated(np.array(points, dtype=float))
    for index, point in enumerate(points):
        beaten = any(_beats(other, point) for other in points) or point in points[:index]
        assert found[index] == (not beaten)


def test_no_points():
    assert non_dominated(np.zeros((0, 2))).shape == (0,)
    assert hypervolume(np.zeros((0, 2)), (1.0, 1.0)) == 0.0


@given(clouds)
def test_volume_is_counted(points):
    assert hypervolume(np.array(points, dtype=float), (EDGE,) * len(points[0])) == _cells(points)


def test_golden_volume():
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 0.5]])
    # Columns from the left: 1 wide and 1 high, 1 wide and 2 high, 1 wide and 3.5 high.
    assert hypervolume(points, (4.0, 4.0)) == pytest.approx(1 + 2 + 3.5)


@given(clouds, st.randoms())
def test_order_of_points_changes_nothing(points, random):
    mixed = list(points)
    random.shuffle(mixed)
    corner = (EDGE,) * len(points[0])
    assert hypervolume(np.array(mixed, dtype=float), corner) == hypervolume(
        np.array(points, dtype=float), corner
    )


@given(_points(3), st.tuples(*[st.integers(-1, EDGE + 1)] * 3))
def test_another_point_never_lowers_the_volume(points, more):
    corner = (EDGE,) * 3
    before = hypervolume(np.array(points, dtype=float), corner)
    after = hypervolume(np.array([*points, more], dtype=float), corner)
    assert after >= before
    inside = all(m < EDGE for m in more)
    covered = any(all(p <= m for p, m in zip(point, more, strict=True)) for point in points)
    assert (after > before) == (inside and not covered)


@given(_points(2))
def test_objectives_may_trade_places(points):
    values = np.array(points, dtype=float)
    assert hypervolume(values, (EDGE, EDGE)) == pytest.approx(hypervolume(values[:, ::-1], (EDGE, EDGE)))
