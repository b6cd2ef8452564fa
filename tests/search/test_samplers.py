"""Every registered sampler keeps the contract; what is particular to some of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from paretune.search.candidates import Candidates
from paretune.search.samplers import find_sampler, sampler_names
from paretune.search.samplers.kinds import POPULATION, SamplerUnavailableError, divisions, make
from paretune.search.samplers.problem import Observation
from paretune.spaces.errors import UnknownNameError
from tests.search import sampler_contract as contract
from tests.search.synthetic import exhaustible_problem, small_problem

DETERMINISTIC = ("additive", "annealing", "greedy", "lp")
"""Samplers that throw no dice: seeds do not matter."""
SLOW = ("gp",)


@pytest.fixture(params=sampler_names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def kind(name):
    return find_sampler(name)


def _trials(name: str, usual: int = 40) -> int:
    return 1 if name in SLOW else usual


def test_proposals_are_legal_and_new(name, kind):
    contract.check_proposals_are_legal_and_new(kind, _trials(name))


def test_resumed_search_is_the_same(name, kind):
    contract.check_resumed_search_is_the_same(kind, _trials(name))


def test_batches_know_what_is_pending(name, kind):
    contract.check_batches_know_what_is_pending(kind, 2 if name in SLOW else 12)


def test_seeds_differ(name, kind):
    if name in DETERMINISTIC:
        pytest.skip(f"{name} is deterministic")
    contract.check_seeds_differ(kind, 4 if name in SLOW else _trials(name, 60))


@pytest.mark.parametrize("bytes_are_known", [True, False])
def test_limits(name, kind, bytes_are_known):
    contract.check_limits(kind, _trials(name, 10), bytes_are_known=bytes_are_known)


def test_nothing_feasible(name, kind):
    contract.check_nothing_feasible(kind, _trials(name))


def test_small_space_ends(kind):
    contract.check_small_space_ends(kind)


@pytest.mark.parametrize("name", ["additive", "nsga2", "nsga3", "paretune", "random", "tpe"])
def test_improves(name):
    contract.check_improves(find_sampler(name), 60)


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "random", "tpe"])
def test_history_alone_decides(name):
    contract.check_history_alone_decides(find_sampler(name), 2 * POPULATION)


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_generations_advance(name):
    """After three generations the parents hold the front of all of them, and children resemble them."""
    synthetic = small_problem()
    random = np.random.default_rng(0)
    sampler = Candidates(synthetic.problem, find_sampler(name), 0)
    for _ in range(3 * POPULATION):
        sampler.tell(synthetic.observe(synthetic.space.random(random)))
    inner = make(find_sampler(name), synthetic.problem, 0)
    parents = inner.get_parent_population(sampler.study, 3)
    assert 0 < len(parents) <= POPULATION
    finished = [inner.get_population(sampler.study, generation) for generation in range(3)]
    assert [len(trials) for trials in finished] == [POPULATION] * 3
    assert all(any(parent in trials for parent in parents) for trials in finished)
    volumes = [
        synthetic.volume([Observation((), tuple(trial.values)) for trial in trials])
        for trials in ([t for trials in finished for t in trials], parents)
    ]
    assert volumes[0] == volumes[1]
    assert inner.get_trial_generation(sampler.study, parents[0]) == 3
    child = sampler.ask(0)
    assert child is not None
    known = np.array([[trial.params[n] for n in trial.params] for trial in parents])
    free = [choice for choice, size in zip(child, synthetic.space.sizes, strict=True) if size > 1]
    same = (known[:, None, :] == free) | (known[None, :, :] == free)
    assert same.sum(axis=2).max() >= len(free) - 3


def test_objectives_that_are_no_number_are_told_as_infinite():
    synthetic = small_problem()
    sampler = Candidates(synthetic.problem, find_sampler("nsga2"), 0)
    dense = synthetic.space.origin()
    sampler.tell(Observation(dense, (float("nan"), 1.0), violations=(float("nan"),)))
    assert sampler.study.trials[0].values == [float("inf"), 1.0]
    assert sampler.study.trials[0].constraints == {"0": float("inf")}


def test_infinite_sensitivity_is_survived_by_every_sampler(kind):
    synthetic = small_problem()
    sampler = Candidates(synthetic.problem, kind, 0)
    for number, observation in enumerate(synthetic.first(with_marginals=kind.uses_marginals)):
        broken = Observation(observation.point, (float("inf"), observation.values[1]))
        sampler.tell(broken if number % 5 == 4 else observation)
    assert sampler.ask(0) is not None


@pytest.mark.parametrize(("name", "why"), [("additive", "converged"), ("random", "exhausted")])
def test_the_end_says_why(name, why):
    """The front of what is known was proposed, and points are left; or none is."""
    synthetic = exhaustible_problem()
    _, sampler = synthetic.search(find_sampler(name), seed=0, trials=10**6)
    assert sampler.ended == why


def test_a_sampler_of_ours_that_proposed_everything_is_exhausted():
    synthetic = exhaustible_problem()
    synthetic.restrictions = synthetic.restrictions.model_copy(update={"bits": (4,), "kv_bits": (16, 8)})
    sampler = Candidates(synthetic.problem, find_sampler("paretune"), 0)
    for point in np.ndindex(*synthetic.space.sizes):
        sampler.tell(synthetic.observe(tuple(point)))
    assert sampler.ask(0) is None
    assert sampler.ended == "exhausted"


def test_nothing_left_to_choose():
    synthetic = exhaustible_problem()
    synthetic.restrictions = synthetic.restrictions.model_copy(update={"bits": (4,), "kv_bits": (16,)})
    sampler = Candidates(synthetic.problem, find_sampler("tpe"), 0)
    point = sampler.ask(0)
    assert point == synthetic.space.origin()
    sampler.tell(synthetic.observe(point))
    assert sampler.ask(1) is None


@pytest.mark.parametrize(("objectives", "expected"), [(1, 32), (2, 31), (3, 6), (4, 3)])
def test_reference_directions_fit_the_population(objectives, expected):
    assert divisions(objectives, 32) == expected


def test_unknown_name():
    with pytest.raises(UnknownNameError, match="tpe"):
        find_sampler("tpee")


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(SamplerUnavailableError, match=r"scipy.*[Ii]nstall"):
        Candidates(small_problem().problem, find_sampler("gp"), 0)


def test_import_leaves_optuna_out():
    code = (
        "import sys, paretune.search.samplers as p; [p.find_sampler(n) for n in p.sampler_names()];"
        "sys.exit(int(bool({'optuna', 'torch'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
