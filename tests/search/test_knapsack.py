"""The exact additive front against enumeration of everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.knapsack import exact_front

genes = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 50)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


def _arrays(problem):
    costs = [np.array([cost for cost, _ in gene], dtype=float) for gene in problem]
    damages = [np.array([damage for _, damage in gene], dtype=float) for gene in problem]
    return costs, damages


def _enumerated(problem):
    """All non-dominated totals, cheapest first."""
    totals = sorted(
        (sum(c for c, _ in picks), sum(d for _, d in picks)) for picks in itertools.product(*problem)
    )
    front = []
    for cost, damage in totals:
        if not front or damage < front[-1][1]:
            front.append((cost, damage))
    return front


@given(genes)
def test_front_is_the_enumerated_one(problem):
    front = exact_front(*_arrays(problem))
    assert front.exact
    assert list(zip(front.costs, front.damages, strict=True)) == _enumerated(problem)


@given(genes)
def test_genomes_reach_what_is_said(problem):
    costs, damages = _arrays(problem)
    front = exact_front(costs, damages)
    for genome, cost, damage in zip(
        front.genomes(np.arange(len(front))), front.costs, front.damages, strict=True
    ):
        assert sum(c[g] for c, g in zip(costs, genome, strict=True)) == cost
        assert sum(d[g] for d, g in zip(damages, genome, strict=True)) == damage


@given(genes)
def test_negative_costs_are_as_good(problem):
    shifted = [[(cost - 7, damage) for cost, damage in gene] for gene in problem]
    front = exact_front(*_arrays(shifted))
    assert list(zip(front.costs, front.damages, strict=True)) == _enumerated(shifted)


def test_coarse_grid_says_so_and_stays_near():
    random = np.random.default_rng(3)
    costs = [np.sort(random.uniform(0, 1000, 6)) for _ in range(6)]
    damages = [np.sort(random.uniform(0, 1, 6))[::-1].copy() for _ in range(6)]
    front = exact_front(costs, damages, most_cells=6 * 4000)
    assert not front.exact
    whole = _enumerated([list(zip(c, d, strict=True)) for c, d in zip(costs, damages, strict=True)])
    for cost, damage in whole[:: max(1, len(whole) // 40)]:
        there = front.damages[np.searchsorted(front.costs, cost + 10, side="right") - 1]
        assert there <= damage + 1e-12


def test_one_choice_each():
    front = exact_front([np.array([3.0]), np.array([4.0])], [np.array([1.0]), np.array([2.0])])
    assert (front.costs.tolist(), front.damages.tolist()) == ([7.0], [3.0])
    assert front.genomes(np.array([0])).tolist() == [[0, 0]]


@pytest.mark.parametrize("refused", [np.inf])
def test_infinite_damage_is_never_picked(refused):
    front = exact_front([np.array([0.0, 5.0])], [np.array([refused, 1.0])])
    assert front.damages.tolist() == [1.0]
