"""The sensitivity table, what it learns, the exchanges it ranks; and a problem whose front is known, solved exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from paretune.search.additive import FrontMaker
from paretune.search.loss_table import Residual
from paretune.search.pareto import non_dominated
from paretune.search.samplers import find_sampler
from paretune.search.samplers.paretune import draw_moves
from paretune.search.samplers.problem import Observation
from paretune.search.sensitivity import SensitivityTable, interpolated, smallest_energy
from paretune.spaces.patterns import Restrictions
from tests.fakes import tiny_spec
from tests.search.synthetic import Synthetic, small_problem


class Additive(Synthetic):
    """Sensitivities add up, nothing else."""

    def quality(self, point):
        return sum(float(d[c]) for d, c in zip(self.sensitivities, point, strict=True)) + 1e-6


def additive_problem():
    """One block, three widths a group: small enough to enumerate, every choice measured by a marginal."""
    restrictions = Restrictions(
        bits=(2, 4, 8, 16), embedding_bits=(8, 16), group_size=64, methods=("rtn",), sparsity=(0.0,),
        blocks=(1,), kv_heads=(2,), ffn_channels=(256,), kv_bits=(16,),
    )  # fmt: skip
    return Additive(tiny_spec(blocks=1), restrictions)


def _front(values):
    found = np.array(sorted(values))
    return {tuple(v) for v in found[non_dominated(found)]}


@pytest.mark.parametrize("name", ["additive", "paretune"])
def test_known_front_is_solved_exactly(name):
    problem = additive_problem()
    everything = [
        problem.observe(point).values
        for point in itertools.product(*(range(size) for size in problem.space.sizes))
    ]
    truth = _front(everything)
    told, _ = problem.search(find_sampler(name), seed=0, trials=len(everything))
    assert 20 < len(truth) < len(told) < len(everything)
    assert _front([o.values for o in told]) == truth


def test_interpolation_in_log_sensitivity():
    assert interpolated({2: 1.0, 4: 0.01}, 3) == pytest.approx(0.1)
    assert interpolated({2: 1.0, 4: 0.01}, 2) == 1.0
    assert interpolated({4: 1.0}, 5) == pytest.approx(1 / 4.5)


def test_more_bits_never_do_more_sensitivity_beyond_the_measured():
    """Noise may turn the slope; what lies outside is still ordered."""
    assert interpolated({4: 1.0, 5: 1.1}, 8) == pytest.approx(1.1 * np.exp(-1.5))
    assert interpolated({4: 1.0, 5: 1.1}, 3) == pytest.approx(np.exp(0.5))
    assert interpolated({2: 1.0, 4: 0.01}, 6) == pytest.approx(1e-4)


@pytest.fixture
def told():
    problem = small_problem()
    observations, _ = problem.search(find_sampler("random"), seed=1, trials=60)
    return problem, [o for o in observations if problem.space.pruned(o.point).whole]


def _table(problem):
    dense = problem.space.origin()
    marginals = {
        (parameter, choice): problem.quality((*dense[:parameter], choice, *dense[parameter + 1 :]))
        for parameter in problem.space.layer_parameters
        for choice in range(problem.space.sizes[parameter])
        if choice != dense[parameter]
    }
    return SensitivityTable(problem.space, marginals, {})


def test_marginals_are_the_prior(told):
    problem, _ = told
    table = _table(problem)
    for parameter in problem.space.layer_parameters:
        assert table.prior[parameter] == pytest.approx(problem.sensitivities[parameter], rel=1e-3, abs=2e-6)


def test_refinement_predicts_unseen_candidates_better(told):
    problem, observations = told
    table = _table(problem)
    seen, unseen = observations[::2], observations[1::2]
    points = [o.point for o in unseen if o.values[0] > 1e-5]
    truth = np.log([o.values[0] for o in unseen if o.values[0] > 1e-5])
    before = np.abs(np.log(table.predict(points)) - truth).mean()
    table.refine(seen)
    assert np.abs(np.log(table.predict(points)) - truth).mean() < 0.5 * before


def test_too_few_observations_change_nothing(told):
    problem, observations = told
    table = _table(problem)
    table.refine(observations[:5])
    assert np.array_equal(table.flat, table.flat_prior)


def test_residual_finds_the_entry_that_is_wrong():
    """One of six entries does five times the harm that was thought."""
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(6), size=200)
    ratios = np.log(shares @ np.array([1.0, 1.0, 5.0, 1.0, 1.0, 1.0]))
    found = Residual(np.zeros(200), shares, ratios)
    whole = found.factors * np.exp(found.trend(np.zeros(1)))
    assert np.argmax(found.factors) == 2
    assert found.factors[2] / np.median(found.factors) > 2.5
    assert np.exp(found.trend(np.zeros(1))) * found.factors.mean() == pytest.approx(whole.mean())


def test_residual_follows_a_trend():
    logs = np.linspace(-6, 0, 50)
    found = Residual(logs, np.full((50, 1), 1e-6), 0.2 * logs)
    assert found.trend(np.array([-5.0, -1.0])) == pytest.approx([-1.0, -0.2], abs=0.05)


def test_moves_say_what_they_cost(told):
    problem, observations = told
    table = _table(problem)
    table.refine(observations)
    maker = FrontMaker(problem.problem, "weight_bytes", {problem.space.origin(): 0.0}, 1_000_000)
    size = maker.size_of(problem.space.origin())
    assert size is not None
    members = np.array([problem.space.uniform(4, "rtn"), problem.space.uniform(8, "rtn")])
    moves = draw_moves(table, size.cells, size.free_cells, members, 50, np.random.default_rng(0))
    assert len(moves.cost) > 50
    for move in range(len(moves.cost)):
        point = moves.point(move, members, table)
        base = tuple(int(c) for c in members[moves.member[move]])
        assert 1 <= sum(a != b for a, b in zip(point, base, strict=True)) <= 3
        assert problem.space.ruling(point)
        cost = problem.cost_of(point)["weight_bytes"] - problem.cost_of(base)["weight_bytes"]
        assert cost == pytest.approx(moves.cost[move])
        change = table.flat[table.cells([point])].sum() - table.flat[table.cells([base])].sum()
        assert change == pytest.approx(moves.loss[move])


def test_parameters_of_cells():
    table = _table(small_problem())
    assert list(table.parameters[table.offsets]) == list(range(len(table.prior)))


def test_pruned_sizes_get_no_format_that_their_shapes_refuse():
    """A group of 64 does not divide 160 channels, so the down projection of that pruned model stays dense."""
    problem = small_problem()
    space = problem.space
    cut = space.index("pruned.ffn_channels")
    base = (*space.origin()[:cut], space.parameters[cut].choices.index(160), *space.origin()[cut + 1 :])
    maker = FrontMaker(problem.problem, "weight_bytes", {space.origin(): 0.0, base: 0.0}, 1_000_000)
    table = _table(problem)
    members = maker.fronts([np.minimum(e, 1e-9) for e in table.entries], 50)
    cut_ones = [m for m in members if m.point[cut] == base[cut]]
    assert cut_ones
    assert all(space.ruling(m.point) for m in members)
    for member in members:
        assert member.cost == pytest.approx(problem.cost_of(member.point)["weight_bytes"])


def test_broken_observations_are_left_out(told):
    problem, observations = told
    table = _table(problem)
    broken = [Observation(o.point, (float("inf"), o.values[1])) for o in observations]
    table.refine(broken)
    assert np.array_equal(table.flat, table.flat_prior)


# -- what the prior is made of -------------------------------------------------------------------------------


def _methods(sparsity=(0.0, 0.25, 0.5, 0.75)):
    return Synthetic(
        tiny_spec(blocks=2),
        Restrictions(
            bits=(4, 8, 16), embedding_bits=(8, 16), group_size=32, methods=("rtn", "hqq"), sparsity=sparsity,
            blocks=(2,), kv_heads=(2,), ffn_channels=(256,), kv_bits=(16,),
        ),
    )  # fmt: skip


def _everywhere(problem, wanted):
    """The entries of the groups inside the blocks whose choice is the wanted one, of a table."""
    space = problem.space
    inside = [i for i in space.layer_parameters if space.parameters[i].group.kind == "linear"]
    return {
        i: next(c for c, choice in enumerate(space.parameters[i].choices) if wanted(choice)) for i in inside
    }


def _plain(bits, method):
    return lambda c: c.weight.num_bits == bits and c.method == method and c.sparsity is None


@pytest.mark.parametrize("method", ["rtn", "hqq"])
def test_without_marginals_entries_add_up_to_what_the_uniform_configuration_lost(method):
    """Whichever method is the better one: the share of a group is of what its own method lost."""
    problem = _methods()
    table = SensitivityTable(problem.space, {}, {(4, "rtn"): 0.4, (4, "hqq"): 0.1, (8, "rtn"): 0.01})
    chosen = _everywhere(problem, _plain(4, method))
    assert sum(table.prior[i][c] for i, c in chosen.items()) == pytest.approx(
        {"rtn": 0.4, "hqq": 0.1}[method]
    )


def test_a_marginal_by_another_method_does_not_pass_for_one_by_the_best():
    """One group was read at 4 bits by the method that loses 4 times as much: others of its width are told less."""
    problem = _methods()
    (index, rtn), *_ = _everywhere(problem, _plain(4, "rtn")).items()
    uniform = {(4, "rtn"): 0.4, (4, "hqq"): 0.1}
    table = SensitivityTable(problem.space, {(index, rtn): 0.08}, uniform)
    hqq = _everywhere(problem, _plain(4, "hqq"))[index]
    assert table.prior[index][rtn] == 0.08
    assert table.prior[index][hqq] == pytest.approx(0.02)
    both = SensitivityTable(problem.space, {(index, rtn): 0.08, (index, hqq): 0.05}, uniform)
    assert (both.prior[index][rtn], both.prior[index][hqq]) == (0.08, 0.05)


def test_each_share_of_zeros_has_a_loss_of_its_own():
    problem = _methods()
    measured = {0.25: 0.01, 0.75: 0.8}
    table = SensitivityTable(problem.space, {}, {(4, "rtn"): 0.4}, measured)
    sums = {}
    for share in (0.25, 0.5, 0.75):
        zeros = _everywhere(
            problem, lambda c, share=share: c.weight.dense and c.sparsity and c.sparsity.fraction == share
        )
        sums[share] = sum(table.prior[i][c] for i, c in zeros.items())
    assert (sums[0.25], sums[0.75]) == pytest.approx((0.01, 0.8))
    assert sums[0.25] < sums[0.5] < sums[0.75]


def test_zeros_are_told_apart_from_the_width_that_they_came_with():
    """Where 16 bits have no zeros: what is left of the loss when that of the width is taken away."""
    evidence = _methods().problem.evidence()
    evidence.uniform = {(8, "rtn"): 0.01, (4, "rtn"): 0.4}
    evidence._zeros = {(4, "rtn", 0.5): 0.7, (8, "rtn", 0.5): 0.06}
    assert evidence.sparse == pytest.approx({0.5: 0.05})


def test_energy_of_the_smallest_magnitudes():
    """Against draws from a normal distribution."""
    drawn = np.sort(np.abs(np.random.default_rng(0).normal(size=200_000))) ** 2
    for share in (0.25, 0.5, 0.75):
        found = drawn[: int(share * len(drawn))].sum() / drawn.sum()
        assert smallest_energy(share) == pytest.approx(found, rel=0.05)
    assert (smallest_energy(0), smallest_energy(1)) == (0.0, 1.0)


def test_the_prediction_follows_the_corrected_sum(told):
    """So the exact front of the sum is that of the prediction wherever the trend rises with it."""
    problem, observations = told
    table = _table(problem)
    table.refine(observations)
    points = [o.point for o in observations]
    sums = table.flat[table.cells(points)].sum(axis=1)
    order = np.argsort(sums)
    assert list(np.argsort(table.predict(points)[order], kind="stable")) == sorted(range(len(points)))


def test_what_was_read_on_less_text_is_not_compared():
    problem = small_problem()
    evidence = problem.problem.evidence()
    random = np.random.default_rng(0)
    points = [problem.space.random(random) for _ in range(6)]
    for number, point in enumerate(points):
        evidence.add(Observation(point, (float(number), 1.0), tokens=8192 if number % 2 else 2048))
    evidence.add(Observation(problem.space.random(random), (float("nan"), 1.0), tokens=8192, broken=True))
    assert [o.values[0] for o in evidence.compared] == [1.0, 3.0, 5.0]
    assert [evidence.is_read(point) for point in points] == [False, True] * 3
