"""Our samplers in anybody's study: Optuna's own contract, and studies over categoricals with a cost."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.testing import pytest_samplers as contract

from paretune.search.pareto import hypervolume
from paretune.search.samplers.additive import AdditiveSampler
from paretune.search.samplers.cost_tables import CostTables
from paretune.search.samplers.paretune import ParetuneSampler
from paretune.spaces.errors import SpaceError


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestContract(
    contract.BasicSamplerTestCase, contract.RelativeSamplerTestCase, contract.MultiObjectiveSamplerTestCase
):
    @pytest.fixture(params=[AdditiveSampler, ParetuneSampler])
    def sampler(self, request):
        return lambda: request.param(seed=0)


WIDTHS = (2, 3, 4, 8)
LAYERS = {f"layer{number}": 10.0 ** (number % 5 - 3) for number in range(20)}


def lost(parameters):
    return sum(weight * 4.0 ** -parameters[name] for name, weight in LAYERS.items())


def bits(parameters):
    return sum(parameters.values())


def bits_table(sign=1):
    return {name: {width: sign * width for width in WIDTHS} for name in LAYERS}


def optimize(sampler, trials, directions=("minimize", "minimize"), reference=0.0):
    study = optuna.create_study(directions=directions, sampler=sampler)
    signs = [1 if direction == "minimize" else -1 for direction in directions]

    def objective(trial):
        parameters = {name: trial.suggest_categorical(name, WIDTHS) for name in LAYERS}
        return reference + signs[0] * lost(parameters), signs[1] * bits(parameters)

    study.optimize(objective, n_trials=trials)
    return study


def volume(study, reference=0.0):
    values = [(np.log(abs(t.values[0] - reference)), abs(t.values[1])) for t in study.trials]
    return hypervolume(np.array(values), (np.log(100), 8.0 * len(LAYERS) + 1))


def test_with_a_table_of_costs_it_beats_the_samplers_of_optuna():
    """Nothing is known but what every choice costs."""
    ours = volume(optimize(ParetuneSampler(CostTables([bits_table()]), seed=0), 80))
    others = [
        volume(optimize(other, 80))
        for other in (optuna.samplers.NSGAIISampler(seed=0), optuna.samplers.RandomSampler(seed=0))
    ]
    assert ours > 1.02 * max(others)


def test_of_two_costs_the_joint_front_is_found():
    """A second cost that has nothing to do with the first: more volume than NSGA-II in as many trials."""
    seconds = dict(
        zip(LAYERS, np.random.default_rng(1).permuted(np.linspace(1, 3, len(LAYERS))), strict=True)
    )
    slow = {
        name: {width: float(seconds[name] * (2 if width == 3 else 1)) for width in WIDTHS} for name in LAYERS
    }

    def found(sampler):
        study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)

        def objective(trial):
            chosen = {name: trial.suggest_categorical(name, WIDTHS) for name in LAYERS}
            return lost(chosen), bits(chosen), sum(slow[name][width] for name, width in chosen.items())

        study.optimize(objective, n_trials=100)
        values = np.array([(np.log(t.values[0]), *t.values[1:]) for t in study.trials])
        return hypervolume(values, (np.log(100), 8.0 * len(LAYERS) + 1, 121.0))

    ours = found(ParetuneSampler(CostTables([bits_table(), slow]), seed=0))
    assert ours > 1.05 * found(optuna.samplers.NSGAIISampler(seed=0))


def test_directions_and_the_best_value_are_the_study_s_own():
    """Maximising an accuracy below .9 under a saving to be maximised is the same search."""
    plain = optimize(ParetuneSampler(CostTables([bits_table()]), seed=0), 60)
    directions = ("maximize", "maximize")
    tables = CostTables([bits_table(-1)], reference=0.9, directions=directions)
    turned = optimize(ParetuneSampler(tables, seed=0), 60, directions, 0.9)
    assert volume(turned, 0.9) == pytest.approx(volume(plain), rel=0.01)


def test_a_prior_is_believed_until_trials_say_otherwise():
    prior = {name: {width: weight * 4.0**-width for width in WIDTHS} for name, weight in LAYERS.items()}
    known = optimize(ParetuneSampler(CostTables([bits_table()], prior=prior), seed=0), 30)
    unknown = optimize(ParetuneSampler(CostTables([bits_table()]), seed=0), 30)
    assert volume(known) > volume(unknown)


def test_a_cost_function_gives_the_table_that_it_adds_up_to():
    tables = CostTables.of_function(dict.fromkeys(LAYERS, WIDTHS), lambda p: (bits(p), 2.0 * p["layer3"]))
    point = tuple(range(4)) * 5
    assert tables.names == tuple(LAYERS)
    first, second = (tables.additive_costs(name, point)[0] for name in tables.objectives[1:])
    assert [list(row) for row in first] == [[0, 1, 2, 6]] * 20
    assert list(second[3]) == [0, 2, 4, 12]
    assert not any(row.any() for name, row in zip(LAYERS, second, strict=True) if name != "layer3")


def test_what_is_pending_is_not_proposed_again():
    """Forty trials that run at once are forty points."""
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=ParetuneSampler(CostTables([bits_table()]), seed=0)
    )
    distributions = dict(study.sampler.infer_relative_search_space(study, None))
    asked = [study.ask(distributions) for _ in range(40)]
    assert len({tuple(trial.params.values()) for trial in asked}) == 40


def test_it_says_when_it_expects_nothing_better():
    choices = {"a": (1, 2), "b": (1, 2)}
    sampler = ParetuneSampler(CostTables([{n: {1: 1.0, 2: 2.0} for n in choices}]), seed=0)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)

    def objective(trial):
        found = {name: trial.suggest_categorical(name, values) for name, values in choices.items()}
        return 5.0 - bits(found), bits(found)

    study.optimize(objective, n_trials=3)
    assert not sampler.converged
    study.optimize(objective, n_trials=5)
    assert sampler.converged
    assert {tuple(t.params.values()) for t in study.trials} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_limits_are_kept():
    tables = CostTables([bits_table()], admissible=lambda parameters: bits(parameters) <= 80)
    study = optimize(ParetuneSampler(tables, seed=0), 50)
    assert all(trial.values[1] <= 80 for trial in study.trials)


def test_a_study_of_other_objectives_is_refused():
    with pytest.raises(SpaceError, match="maximize"):
        optimize(ParetuneSampler(CostTables([bits_table()]), seed=0), 1, ("maximize", "minimize"))
    with pytest.raises(SpaceError, match="every choice"):
        CostTables([{"a": {1: 0.0}}], {"a": (1, 2)})
