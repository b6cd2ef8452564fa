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


def _totals(arrays, genomes):
    return np.array([sum(values[g] for values, g in zip(arrays, genome, strict=True)) for genome in genomes])


def _shuffled(random, items):
    mixed = list(items)
    random.shuffle(mixed)
    return mixed


@given(genes, st.randoms())
def test_order_of_genes_and_choices_changes_nothing(problem, random):
    mixed = _shuffled(random, [_shuffled(random, gene) for gene in problem])
    one, other = exact_front(*_arrays(problem)), exact_front(*_arrays(mixed))
    assert np.array_equal(one.costs, other.costs)
    assert np.array_equal(one.damages, other.damages)


@given(genes, st.integers(0, 4), st.tuples(st.integers(0, 20), st.integers(0, 60)))
def test_another_choice_never_hurts(problem, place, choice):
    """Whatever was within reach still is, at no more damage."""
    more = [list(gene) for gene in problem]
    more[place % len(more)].append(choice)
    after = exact_front(*_arrays(more))
    for cost, damage in _enumerated(problem):
        assert after.damages[np.searchsorted(after.costs, cost, side="right") - 1] <= damage


@given(genes, st.integers(1, 10**9))
def test_a_common_divisor_keeps_the_grid_short(problem, unit):
    """Gigabytes in steps of a large unit need no more levels than the same costs in steps of one."""
    costs, damages = _arrays(problem)
    scaled = exact_front([cost * unit for cost in costs], damages, most_cells=len(problem) * 60)
    assert scaled.exact
    assert [(cost / unit, damage) for cost, damage in zip(scaled.costs, scaled.damages, strict=True)] == (
        _enumerated(problem)
    )


@given(genes, st.data())
def test_some_members_in_any_order(problem, data):
    front = exact_front(*_arrays(problem))
    wanted = data.draw(st.lists(st.integers(0, len(front) - 1), max_size=5))
    some = front.genomes(np.array(wanted, dtype=np.int64))
    assert some.shape == (len(wanted), len(problem))
    assert np.array_equal(some, front.genomes(np.arange(len(front)))[wanted])


@given(genes, st.data())
def test_refused_choices_are_never_picked(problem, data):
    """One choice a gene stays open, the others may have infinite damage."""
    allowed = [data.draw(st.sets(st.integers(0, len(gene) - 1), min_size=1)) for gene in problem]
    costs, damages = _arrays(problem)
    for damage, open_ones in zip(damages, allowed, strict=True):
        damage[[choice for choice in range(len(damage)) if choice not in open_ones]] = np.inf
    front = exact_front(costs, damages)
    left = [[gene[c] for c in sorted(open_ones)] for gene, open_ones in zip(problem, allowed, strict=True)]
    assert list(zip(front.costs, front.damages, strict=True)) == _enumerated(left)
    for genome in front.genomes(np.arange(len(front))):
        assert all(choice in open_ones for choice, open_ones in zip(genome, allowed, strict=True))


wide_genes = st.lists(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 50)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@given(wide_genes, st.integers(16, 200))
def test_a_coarse_grid_is_off_by_half_a_level_a_gene(problem, levels):
    """Damages are exact for the genomes they belong to; costs, and what is missed, are within the rounding."""
    costs, damages = _arrays(problem)
    front = exact_front(costs, damages, most_cells=levels * len(problem))
    genomes = front.genomes(np.arange(len(front)))
    span = sum(cost.max() - cost.min() for cost in costs)
    off = 0.0 if front.exact else 0.5 * len(problem) * span / (levels // 2) + 1e-6
    assert np.array_equal(_totals(damages, genomes), front.damages)
    assert np.abs(_totals(costs, genomes) - front.costs).max() <= off
    assert (np.diff(front.costs) > 0).all()
    assert (np.diff(front.damages) < 0).all()
    for cost, damage in _enumerated(problem):
        assert front.damages[np.searchsorted(front.costs, cost + off, side="right") - 1] <= damage


@given(wide_genes, st.integers(16, 200))
def test_exact_is_claimed_where_the_levels_fit(problem, levels):
    costs, damages = _arrays(problem)
    front = exact_front(costs, damages, most_cells=levels * len(problem))
    if front.exact:
        assert list(zip(front.costs, front.damages, strict=True)) == _enumerated(problem)
    else:
        assert sum(cost.max() - cost.min() for cost in costs) > levels


def test_fractions_of_a_byte_are_not_exact():
    front = exact_front([np.array([0.0, 0.5])], [np.array([1.0, 0.0])])
    assert not front.exact
    assert front.costs == pytest.approx([0.0, 0.5])


def test_golden_front():
    """Two genes, the first twice as large: of nine pairs of widths (2, 8), (4, 2), (8, 2) and (8, 4) are beaten."""
    costs, damages = [np.array([20, 40, 80]), np.array([10, 20, 40])], [np.array([9.0, 3.0, 0.5])] * 2
    front = exact_front(costs, damages)
    assert front.exact
    assert front.costs.tolist() == [30, 40, 60, 80, 120]
    assert front.damages.tolist() == [18, 12, 6, 3.5, 1]
    assert front.genomes(np.arange(5)).tolist() == [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2]]


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


def test_genes_of_many_choices():
    choices = np.arange(300.0)
    front = exact_front([choices], [choices[::-1].copy()])
    assert front.genomes(np.array([299, 200])).tolist() == [[299], [200]]
