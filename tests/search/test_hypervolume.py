"""The dominated volume: exact on whole numbers, and what does not change it. Unit cells: test_geometry.py."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.pareto import hypervolume

BOUND = 1000
"""Products of four such numbers, and sums of a few of them, are exact in float64."""


def _points(dimensions, most=7):
    value = st.one_of(st.integers(-BOUND, BOUND + 10), st.integers(-2, 2))
    return st.lists(st.tuples(*[value] * dimensions), min_size=1, max_size=most)


clouds = st.integers(1, 4).flatmap(_points)


def _volume(points):
    return hypervolume(np.array(points, dtype=float), (BOUND,) * len(points[0]))


def _inclusion_exclusion(points, corner):
    """Exact in whole numbers: boxes, less their pairs' overlaps, more those of triples, and so on."""
    total = 0
    for size in range(1, len(points) + 1):
        for some in itertools.combinations(points, size):
            edges = [c - max(axis) for c, axis in zip(corner, zip(*some, strict=True), strict=True)]
            total += (-1) ** (size + 1) * math.prod(max(0, edge) for edge in edges)
    return total


def _rectangles(points, corner):
    """Two objectives: every cell between neighbouring coordinates, counted if some point dominates it."""
    lefts, lows = (sorted({*axis, end}) for axis, end in zip(zip(*points, strict=True), corner, strict=True))
    return sum(
        (right - left) * (high - low)
        for left, right in itertools.pairwise(lefts)
        for low, high in itertools.pairwise(lows)
        if right <= corner[0] and high <= corner[1]
        if any(x <= left and y <= low for x, y in points)
    )


@given(clouds)
def test_volume_is_that_of_inclusion_and_exclusion(points):
    assert _volume(points) == _inclusion_exclusion(points, (BOUND,) * len(points[0]))


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(-1, 1)), min_size=1, max_size=12))
def test_two_objectives_are_rectangles(points):
    corner = (1.5, 0.75)
    expected = _rectangles(points, corner)
    assert hypervolume(np.array(points), corner) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(clouds, st.data())
def test_another_point_adds_what_it_alone_dominates(points, data):
    more = data.draw(st.tuples(*[st.integers(-BOUND, BOUND + 10)] * len(points[0])))
    before, after = _volume(points), _volume([*points, more])
    overlap = [tuple(map(max, zip(point, more, strict=True))) for point in points]
    assert after - before == _volume([more]) - _volume(overlap)
    assert after >= before


@given(clouds, st.randoms())
def test_order_of_points_and_copies_change_nothing(points, random):
    mixed = [*points, random.choice(points)]
    random.shuffle(mixed)
    assert _volume(mixed) == _volume(points)


@given(clouds, st.randoms())
def test_order_of_objectives_changes_nothing(points, random):
    order = list(range(len(points[0])))
    random.shuffle(order)
    assert _volume(np.array(points)[:, order]) == _volume(points)


@given(clouds, st.integers(0, 3), st.sampled_from([0.25, 2.0, 64.0]), st.integers(-50, 50))
def test_units_scale_it_and_offsets_do_not_matter(points, axis, scale, offset):
    """A unit that is a power of two times another scales exactly."""
    values, corner = np.array(points, dtype=float), np.full(len(points[0]), float(BOUND))
    axis %= len(corner)
    changed, bound = values + offset, corner + offset
    changed[:, axis] *= scale
    bound[axis] *= scale
    assert hypervolume(changed, bound.tolist()) == scale * _volume(points)


def test_golden_three_objectives():
    """Three boxes of 6, their pairs share 2 each, all three share 1."""
    points = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]])
    assert hypervolume(points, (4.0, 4.0, 4.0)) == 3 * 6 - 3 * 2 + 1


def test_golden_four_objectives():
    """Two boxes of 2 x 1 x 1 x 1 that share the unit cube."""
    points = np.array([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]])
    assert hypervolume(points, (2.0, 2.0, 2.0, 2.0)) == 3.0


@pytest.mark.parametrize("outside", [(4.0, 0.0), (0.0, 4.0), (5.0, -9.0), (math.inf, 0.0), (math.nan, 0.0)])
def test_points_at_or_beyond_the_reference_add_nothing(outside):
    assert hypervolume(np.array([outside]), (4.0, 4.0)) == 0.0
    assert hypervolume(np.array([[1.0, 1.0], outside]), (4.0, 4.0)) == 9.0


def test_one_objective_is_the_distance_to_the_best():
    assert hypervolume(np.array([[3.0], [1.0], [2.0]]), (10.0,)) == 9.0


def test_no_points_of_any_shape():
    assert hypervolume(np.array([]), (1.0, 1.0, 1.0)) == 0.0
