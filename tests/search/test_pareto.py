"""Non-dominated points: what may be done to a cloud without changing them. Their definition: test_geometry.py."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.pareto import non_dominated

numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.just(math.inf))
"""Coarse ones tie often, infinite ones stand for broken candidates."""
clouds = st.integers(1, 4).flatmap(
    lambda dimensions: st.lists(st.tuples(*[numbers] * dimensions), min_size=1, max_size=25)
)


def _kept(points):
    """The set of kept points, and that none is kept twice."""
    found = [tuple(point) for point in np.array(points)[non_dominated(np.array(points))].tolist()]
    assert len(set(found)) == len(found)
    return set(found)


def _unbeaten(points, better):
    """By comparing each with each; ``better(a, b)``: a is at least as good in this objective."""
    distinct = set(points)
    return {
        point
        for point in distinct
        if not any(
            other != point and all(better(a, b) for a, b in zip(other, point, strict=True))
            for other in distinct
        )
    }


@given(clouds)
def test_each_is_compared_with_each(points):
    assert _kept(points) == _unbeaten(points, lambda a, b: a <= b)


@given(clouds)
def test_a_maximised_cloud_enters_with_its_sign_flipped(points):
    flipped = [tuple(-value for value in point) for point in points]
    expected = _unbeaten(points, lambda a, b: a >= b)
    assert {tuple(-value for value in point) for point in _kept(flipped)} == expected


@given(clouds, st.randoms())
def test_order_of_points_changes_nothing(points, random):
    mixed = list(points)
    random.shuffle(mixed)
    assert _kept(mixed) == _kept(points)


@given(clouds, st.randoms())
def test_order_of_objectives_changes_nothing(points, random):
    order = list(range(len(points[0])))
    random.shuffle(order)
    values = np.array(points)
    assert np.array_equal(non_dominated(values[:, order]), non_dominated(values))


@given(clouds)
def test_units_change_nothing(points):
    """Only the order of values counts, so ranks do as well as any unit."""
    values = np.array(points)
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], axis=1)
    assert np.array_equal(non_dominated(ranks), non_dominated(values))


@given(clouds)
def test_what_is_kept_is_kept_again(points):
    values = np.array(points)
    kept = values[non_dominated(values)]
    assert non_dominated(kept).all()


@given(clouds)
def test_of_equal_points_the_first_counts(points):
    mask = non_dominated(np.array([*points, *points]))
    assert not mask[len(points) :].any()
    assert np.array_equal(mask[: len(points)], non_dominated(np.array(points)))


def test_golden_mask():
    points = [(2, 2), (1, 3), (2, 2), (3, 1), (3, 3), (1, 4), (0, math.inf), (4, 1)]
    expected = [True, True, False, True, False, False, True, False]
    assert non_dominated(np.array(points, dtype=float)).tolist() == expected


def test_input_is_left_alone():
    values = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0]])
    before = values.copy()
    non_dominated(values)
    assert np.array_equal(values, before)
