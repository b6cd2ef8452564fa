"""The model of the loss: what it learns, what it predicts, and where moves lead."""

from __future__ import annotations

import numpy as np
import pytest

from paretune.search.additive import FrontMaker
from paretune.search.local_search import Front, Ground, LocalSearch, expected_improvement, keeps
from paretune.search.loss_model import LossModel
from paretune.search.samplers import find_sampler
from paretune.search.samplers.cost_tables import CostTables
from paretune.search.samplers.problem import Observation
from tests.search.synthetic import small_problem

GROUPS, WIDTHS = 12, (2, 3, 4, 8)
TABLES = CostTables([{f"group{g}": {w: float(w) for w in WIDTHS} for g in range(GROUPS)}])
RANDOM = np.random.default_rng(3)
ENTRIES = 10 ** RANDOM.uniform(-4, -2, (GROUPS, 1)) * 4.0 ** (4 - np.array(WIDTHS))


def truth(point, entries=ENTRIES, power=0.0):
    total = entries[np.arange(GROUPS), list(point)].sum()
    return float(total * (1 + 10 * total**power) if power else total)


def observe(points, **more):
    return [Observation(p, (truth(p, **more), float(sum(WIDTHS[c] for c in p))), tokens=1024) for p in points]


def points(count, seed=0):
    return list(map(tuple, np.random.default_rng(seed).integers(0, len(WIDTHS), (count, GROUPS)).tolist()))


def model(observations, entries=ENTRIES):
    return LossModel(TABLES, list(entries), {TABLES.origin: 0.0}, observations)


def predicted(found, some):
    thought = found.think(found.cells(some))
    return found.mean(thought), found.deviation(thought)


def test_before_it_learned_it_is_the_sum():
    found = model(observe(points(7)))
    assert predicted(found, points(5, 1))[0] == pytest.approx(np.log([truth(p) for p in points(5, 1)]))
    assert np.array_equal(np.concatenate([*found.entries, [0.0]]), found.flat)


def test_it_follows_a_trend():
    """Large perturbations do more harm together than apart."""
    found = model(observe(points(200), power=0.7))
    new = points(50, 1)
    mean, deviation = predicted(found, new)
    errors = mean - np.log([truth(p, power=0.7) for p in new])
    assert np.abs(errors).max() < 0.02
    assert np.abs(np.log([truth(p) for p in new]) - np.log([truth(p, power=0.7) for p in new])).min() > 0.1
    assert deviation.max() < 0.1


def test_it_finds_the_entry_that_is_wrong():
    """One of 48 does four times the harm that was thought; the front is made of corrected entries."""
    wrong = np.array(ENTRIES)
    heavy = int(np.argmax(ENTRIES[:, 0]))
    wrong[heavy, 0] /= 4
    found = model(observe(points(300)), wrong)
    factors = np.array(found.entries) / wrong
    assert np.unravel_index(np.argmax(factors), factors.shape) == (heavy, 0)
    assert factors[heavy, 0] / np.median(factors) > 2
    new = points(50, 1)
    before = predicted(model([], wrong), new)[0] - np.log([truth(p) for p in new])
    assert (
        np.abs(predicted(found, new)[0] - np.log([truth(p) for p in new])).mean()
        < 0.2 * np.abs(before).mean()
    )


def test_deviations_are_those_of_the_errors():
    """Half of the entries are off by a factor of up to 1.5."""
    wrong = ENTRIES * np.exp(np.random.default_rng(5).uniform(-0.4, 0.4, ENTRIES.shape))
    found = model(observe(points(60)), wrong)
    new = points(200, 1)
    mean, deviation = predicted(found, new)
    errors = (mean - np.log([truth(p) for p in new])) / deviation
    assert 0.3 < np.sqrt(np.square(errors).mean()) < 2
    near = predicted(found, points(60))[1].mean()
    assert near < deviation.mean()


def test_losses_that_are_no_numbers_are_left_out():
    broken = [Observation(p, (value, 1.0)) for p in points(20) for value in (float("inf"), float("nan"), 0.0)]
    found = model(broken)
    assert np.array_equal(np.concatenate(found.entries), ENTRIES.ravel())


def test_shapes_have_a_loss_of_their_own():
    problem = small_problem()
    told, _ = problem.search(find_sampler("random"), seed=1, trials=80)
    evidence = problem.told(with_marginals=True)
    for observation in told:
        evidence.add(observation)
    found = LossModel(problem.problem, problem.problem.prior(evidence), evidence.shapes, evidence.candidates)
    assert len(evidence.shapes) > 2
    bases = list(evidence.shapes)
    mean = found.mean(found.think(found.cells(bases)))
    for base, value in zip(bases[1:], mean[1:], strict=True):
        assert value == pytest.approx(np.log(problem.quality(base)), abs=0.5)
    unknown = [o.point for o in told if not found.knows(o.point)]
    assert all(problem.problem.shape_of(p) not in set(map(problem.problem.shape_of, bases)) for p in unknown)


def ground_of(problem, found, base):
    size = FrontMaker(problem, 10**6).size(base, 0.0, {problem.costs[0]: 1.0})
    extra = np.zeros(len(found.flat) - len(size.cells))
    cells = np.flatnonzero(np.concatenate([size.free_cells, extra > 0]))
    return Ground(np.append(size.cells, extra)[:, None], np.array([size.rest]), cells)


def test_moves_predict_what_their_points_do():
    """Sums and costs of a moved point are those of the point taken anew, also after moves of moves."""
    problem = small_problem()
    evidence = problem.told(with_marginals=True)
    found = LossModel(problem.problem, problem.problem.prior(evidence), evidence.shapes, evidence.candidates)
    base = problem.space.origin()
    ground = ground_of(problem.problem, found, base)
    front = Front(np.array([[1e5], [4e5]]), np.log([1.0, 1e-3]))
    budgets = front.budgets(np.random.default_rng(0))
    search = LocalSearch(found, front, budgets, front.within(budgets), np.random.default_rng(0))
    start = found.think(found.cells([problem.space.uniform(4, "rtn"), problem.space.uniform(8, "rtn")]))
    pool = search.around(start, ground, 200)
    assert len(pool.points) > 50
    assert len(set(pool.points)) == len(pool.points)
    fresh = found.think(found.cells(pool.points))
    assert pool.means == pytest.approx(found.mean(fresh))
    for point, cost in zip(pool.points, pool.costs, strict=True):
        assert problem.space.ruling(point)
        assert cost[0] == pytest.approx(problem.cost_of(point)["weight_bytes"])


def test_local_search_finds_the_front_of_sums():
    """From the ends alone: within 1 % of the exact front in every budget that is not next to an end."""
    found = model([])
    ground = ground_of(TABLES, found, TABLES.origin)
    ends = [(0,) * GROUPS, (len(WIDTHS) - 1,) * GROUPS]
    thought = found.think(found.cells(ends))
    front = Front(ground.of(thought), found.mean(thought))
    budgets = front.budgets(np.random.default_rng(0))
    search = LocalSearch(found, front, budgets, front.within(budgets), np.random.default_rng(0))
    for _ in range(4):
        pool = search.around(thought, ground, 2000)
        thought = found.think(found.cells(pool.points))
    exact = FrontMaker(TABLES, 10**7).fronts(list(ENTRIES), {TABLES.origin: 0.0}, {"cost0": 1.0}, 10**6)
    best = Front(np.array([[m.cost] for m in exact]), np.log([m.total for m in exact])).within(budgets)
    gap = Front(pool.costs, pool.means).within(budgets) - best
    assert np.median(gap) < 0.01
    assert gap.min() >= -1e-9


def test_budgets_and_what_keeps_them():
    front = Front(np.array([[1.0, 9.0], [4.0, 2.0], [16.0, 1.0]]), np.log([1.0, 0.5, 1e-6]))
    budgets = front.budgets(np.random.default_rng(0))
    assert budgets.min(axis=0) == pytest.approx([1, 2], rel=0.02)
    assert budgets.max(axis=0) == pytest.approx([4, 9], rel=0.02)  # the last member loses next to nothing
    assert list(keeps(front.costs, np.array([[4.0, 9.0]]))[:, 0]) == [True, True, False]
    assert front.within(np.array([[4.0, 9.0], [1.0, 9.0], [0.5, 0.5]])) == pytest.approx(
        np.log([0.5, 1.0, 1.0])
    )


def test_expected_improvement_is_that_of_draws():
    drawn = np.random.default_rng(0).normal(-1.0, 0.5, 200_000)
    for best in (-2.0, -1.0, 0.5):
        found = expected_improvement(np.array(best), np.array(-1.0), np.array(0.5))
        assert found == pytest.approx(np.maximum(best - drawn, 0).mean(), rel=0.02, abs=3e-4)
