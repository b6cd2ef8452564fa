"""What is known of choices before candidates; and a problem whose front is known, solved exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from paretune.search.pareto import non_dominated
from paretune.search.samplers import find_sampler
from paretune.search.samplers.problem import Observation
from paretune.search.sensitivity import SensitivityPrior, interpolated, smallest_energy
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


def test_marginals_are_the_prior():
    problem = small_problem()
    entries = problem.problem.prior(problem.told(with_marginals=True))
    for parameter in problem.space.layer_parameters:
        known = problem.sensitivities[parameter]
        assert entries[parameter] == pytest.approx(known, rel=1e-3, abs=2e-6)


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
    table = SensitivityPrior(problem.space, {}, {(4, "rtn"): 0.4, (4, "hqq"): 0.1, (8, "rtn"): 0.01})
    chosen = _everywhere(problem, _plain(4, method))
    assert sum(table.entries[i][c] for i, c in chosen.items()) == pytest.approx(
        {"rtn": 0.4, "hqq": 0.1}[method]
    )


def test_a_marginal_by_another_method_does_not_pass_for_one_by_the_best():
    """One group was read at 4 bits by the method that loses 4 times as much: others of its width are told less."""
    problem = _methods()
    (index, rtn), *_ = _everywhere(problem, _plain(4, "rtn")).items()
    uniform = {(4, "rtn"): 0.4, (4, "hqq"): 0.1}
    table = SensitivityPrior(problem.space, {(index, rtn): 0.08}, uniform)
    hqq = _everywhere(problem, _plain(4, "hqq"))[index]
    assert table.entries[index][rtn] == 0.08
    assert table.entries[index][hqq] == pytest.approx(0.02)
    both = SensitivityPrior(problem.space, {(index, rtn): 0.08, (index, hqq): 0.05}, uniform)
    assert (both.entries[index][rtn], both.entries[index][hqq]) == (0.08, 0.05)


def test_each_share_of_zeros_has_a_loss_of_its_own():
    problem = _methods()
    measured = {0.25: 0.01, 0.75: 0.8}
    table = SensitivityPrior(problem.space, {}, {(4, "rtn"): 0.4}, measured)
    sums = {}
    for share in (0.25, 0.5, 0.75):
        zeros = _everywhere(
            problem, lambda c, share=share: c.weight.dense and c.sparsity and c.sparsity.fraction == share
        )
        sums[share] = sum(table.entries[i][c] for i, c in zeros.items())
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
