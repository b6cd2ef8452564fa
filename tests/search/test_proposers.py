"""Every registered sampler keeps the contract; what is particular to some of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from search.observation import Observation
from search.proposers import Proposer, find_proposer, proposer_names
from search.proposers.nsga2 import POPULATION, Nsga2Proposer
from search.proposers.nsga3 import divisions
from search.proposers.optuna_gp import SamplerUnavailableError
from spaces.errors import UnknownNameError
from tests.search import proposer_contract as contract
from tests.search.synthetic import exhaustible_problem, small_problem

DETERMINISTIC = ("additive",)
"""Samplers that throw no dice: seeds do not matter."""
SLOW = ("gp",)


@pytest.fixture(params=proposer_names())
def kind(request: pytest.FixtureRequest) -> type[Proposer]:
    return find_proposer(request.param)


def _trials(kind: type[Proposer], usual: int = 40) -> int:
    return 1 if kind.name in SLOW else usual


def test_names(kind):
    assert kind is find_proposer(kind.name)


def test_proposals_are_legal_and_new(kind):
    contract.check_proposals_are_legal_and_new(kind, _trials(kind))


def test_resumed_search_is_the_same(kind):
    contract.check_resumed_search_is_the_same(kind, _trials(kind))


def test_seeds_differ(kind):
    if kind.name in DETERMINISTIC:
        pytest.skip(f"{kind.name} is deterministic")
    contract.check_seeds_differ(kind, 4 if kind.name in SLOW else _trials(kind))


@pytest.mark.parametrize("bytes_are_known", [True, False])
def test_limits(kind, bytes_are_known):
    contract.check_limits(kind, _trials(kind, 10), bytes_are_known=bytes_are_known)


def test_nothing_feasible(kind):
    contract.check_nothing_feasible(kind, _trials(kind))


def test_small_space_ends(kind):
    contract.check_small_space_ends(kind)


@pytest.mark.parametrize("name", ["additive", "nsga2", "nsga3", "paretune", "random", "tpe"])
def test_improves(name):
    contract.check_improves(find_proposer(name), 60)


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "random", "tpe"])
def test_history_alone_decides(name):
    contract.check_history_alone_decides(find_proposer(name), 2 * POPULATION)


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_generations_advance(name):
    """After three generations the parents hold the front of all of them, and children resemble them."""
    synthetic = small_problem()
    random = np.random.default_rng(0)
    proposer = find_proposer(name)(synthetic.problem, 0)
    assert isinstance(proposer, Nsga2Proposer)
    for _ in range(3 * POPULATION):
        proposer.tell(synthetic.observe(synthetic.space.random(random)))
    sampler = proposer.sampler(0)
    parents = sampler.get_parent_population(proposer.study, 3)
    assert 0 < len(parents) <= POPULATION
    finished = [sampler.get_population(proposer.study, generation) for generation in range(3)]
    assert [len(trials) for trials in finished] == [POPULATION] * 3
    assert all(any(parent in trials for parent in parents) for trials in finished)
    volumes = [
        synthetic.volume([Observation((), tuple(trial.values)) for trial in trials])
        for trials in ([t for trials in finished for t in trials], parents)
    ]
    assert volumes[0] == volumes[1]
    assert set(proposer.trial_attributes().values()) == {3}
    child = proposer.propose(0)
    assert child is not None
    known = np.array([[trial.params[n] for n in trial.params] for trial in parents])
    free = [choice for choice, size in zip(child, synthetic.space.sizes, strict=True) if size > 1]
    same = (known[:, None, :] == free) | (known[None, :, :] == free)
    assert same.sum(axis=2).max() >= len(free) - 3


def test_objectives_that_are_no_number_are_told_as_infinite():
    synthetic = small_problem()
    proposer = find_proposer("nsga2")(synthetic.problem, 0)
    dense = synthetic.space.dense()
    proposer.tell(Observation(dense, (float("nan"), 1.0), violations=(float("nan"),)))
    assert proposer.study.trials[0].values == [float("inf"), 1.0]
    assert proposer.study.trials[0].constraints == {"0": float("inf")}


def test_infinite_damage_is_survived_by_every_sampler(kind):
    synthetic = small_problem()
    proposer = kind(synthetic.problem, 0)
    for number, observation in enumerate(synthetic.first(with_marginals=kind.uses_marginals)):
        broken = Observation(observation.genome, (float("inf"), observation.values[1]))
        proposer.tell(broken if number % 5 == 4 else observation)
    assert proposer.propose(0) is not None


def test_nothing_left_to_choose():
    synthetic = exhaustible_problem()
    synthetic.restrictions = synthetic.restrictions.model_copy(update={"bits": (4,), "kv_bits": (16,)})
    proposer = find_proposer("tpe")(synthetic.problem, 0)
    genome = proposer.propose(0)
    assert genome == synthetic.space.dense()
    proposer.tell(synthetic.observe(genome))
    assert proposer.propose(1) is None


@pytest.mark.parametrize(("objectives", "expected"), [(1, 32), (2, 31), (3, 6), (4, 3)])
def test_reference_directions_fit_the_population(objectives, expected):
    assert divisions(objectives, 32) == expected


def test_unknown_name():
    with pytest.raises(UnknownNameError, match="tpe"):
        find_proposer("tpee")


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(SamplerUnavailableError, match=r"gp.*scipy.*[Ii]nstall"):
        find_proposer("gp")(small_problem().problem, 0)


def test_import_leaves_optuna_out():
    code = (
        "import sys, search.proposers as p; [p.find_proposer(n) for n in p.proposer_names()];"
        "sys.exit(int(bool({'optuna', 'torch'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
