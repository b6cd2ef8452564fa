"""The known fronts of synthetic landscapes are known: no point of a small one lies below; shares are of theirs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.search_efficiency import WIDTHS, Landscape, Run


@pytest.fixture(scope="module")
def small():
    return Landscape(8)


def test_the_known_front_is_that_of_all_points(small):
    points = np.array(list(itertools.product(range(len(WIDTHS)), repeat=8)))
    halves = small.entries[np.arange(8), points].reshape(len(points), 2, 4)
    total = small.blocks(halves.transpose(1, 0, 2)).sum(axis=0)
    losses = total * (1 + 3 * total**0.7)
    assert losses[12345] == pytest.approx(small.loss(tuple(points[12345])))
    bits = np.array(WIDTHS)[points] @ small.weights / small.weights.sum()
    known_bits, known = small.front
    for budget in np.linspace(2, 8, 200):
        best = losses[bits <= budget + 1e-9].min()
        assert known[known_bits <= budget + 1e-9].min() == pytest.approx(best, rel=1e-12)


def test_the_known_front_has_all_of_its_volume(small):
    bits, known = small.front
    whole = small.volume(bits, known, known)
    assert whole > 0
    assert small.volume(bits, known, 1.1 * known) == pytest.approx(whole - 2.3 * np.log10(1.1))
    assert small.volume(bits[:1], known[:1], known[:1]) < 0.2 * whole


@pytest.mark.parametrize("method", ["paretune", "lp", "random"])
def test_rows_cost_what_they_say(method):
    run = Run(Landscape(16), "small", method, 0)
    rows = list(run.rows(50))
    assert [row["evaluations"] for row in rows][:1] == [50]
    assert run.evaluations <= 50
    marginals = 0 if method == "random" else 3 * 16 / 16
    assert run.evaluations == pytest.approx(marginals + len(run.members) / 2)
    assert 0 < rows[-1]["hypervolume_report"] <= 1.0


def test_the_default_finds_nearly_all_of_a_small_front():
    (row,) = Run(Landscape(16), "small", "paretune", 0).rows(50)
    assert row["hypervolume_report"] > 0.97
