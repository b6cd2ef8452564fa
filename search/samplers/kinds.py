"""The samplers that a search can be told to use, as values: how each is made, and what it needs from a search."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.search.samplers.problem import Problem
from paretune.spaces.errors import ParetuneError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

POPULATION = 32
"""Candidates per generation. Searches have hundreds of candidates: with more they would hardly evolve."""


class SamplerUnavailableError(ParetuneError):
    """A sampler whose libraries are not installed."""


@dataclass(frozen=True)
class Kind:
    """A sampler of Optuna, or one of ours, which are samplers of Optuna too.

    Attributes:
        make: from the problem and a seed of 32 bits.
        lasting: whether one sampler works for a whole search and proposes only what is new and legal. Of others a fresh
            one makes each proposal, so that what was told decides and nothing else.
        uses_marginals: whether the study measures marginals before it is asked.
        attempts: how many suggestions are tried before a random point is taken.
        needs: modules that must be installed.
        remedy: where they are not.
    """

    make: Callable[[Problem, int], BaseSampler]
    lasting: bool = False
    uses_marginals: bool = False
    attempts: int = 16
    needs: tuple[str, ...] = ()
    remedy: str = ""

    def check(self) -> None:
        """Raises: SamplerUnavailableError: a module is missing."""
        for module in self.needs:
            try:
                import_module(module)
            except ImportError as error:
                raise SamplerUnavailableError(
                    f"this sampler needs {module}", str(error), self.remedy
                ) from error


def _ours(module: str, name: str) -> Kind:
    """A class of this package, which is imported when one is made."""

    def make_one(problem: Problem, seed: int) -> BaseSampler:
        found: BaseSampler = getattr(import_module(f"paretune.search.samplers.{module}"), name)(
            problem, seed=seed
        )
        return found

    return Kind(make_one, lasting=True, uses_marginals=True)


def _random(problem: Problem, seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    del problem
    return RandomSampler(seed=seed)


def _tpe(problem: Problem, seed: int) -> BaseSampler:
    """Multi-objective (Ozaki et al., 2022), multivariate: all parameters are drawn together."""
    from optuna.samplers import TPESampler

    return _knowing(problem, TPESampler)(multivariate=True, seed=seed)


def _gp(problem: Problem, seed: int) -> BaseSampler:
    """Expected hypervolume improvement (Daulton et al., 2020), one process per objective and limit."""
    from optuna.samplers import GPSampler

    return _knowing(problem, GPSampler)(seed=seed)


def _nsga2(problem: Problem, seed: int) -> BaseSampler:
    """Deb et al., 2002: non-dominated sorting and crowding distance; uniform crossover, one mutation a child."""
    from optuna.samplers import NSGAIISampler

    return _in_order(_knowing(problem, NSGAIISampler))(population_size=POPULATION, seed=seed)


def _nsga3(problem: Problem, seed: int) -> BaseSampler:
    """Deb and Jain, 2014: niches around as many reference directions as the population can fill."""
    from optuna.samplers import NSGAIIISampler

    axes = divisions(len(problem.objectives), POPULATION)
    kind = _in_order(_knowing(problem, NSGAIIISampler))
    return kind(population_size=POPULATION, dividing_parameter=axes, seed=seed)


PARETUNE = _ours("paretune", "ParetuneSampler")
ADDITIVE = _ours("additive", "AdditiveSampler")
ANNEALING = _ours("allocators", "AnnealingSampler")
GREEDY = _ours("allocators", "GreedySampler")
LINEAR_PROGRAM = _ours("allocators", "LinearProgramSampler")
RANDOM = Kind(_random)
# Each suggestion fits the estimators anew, a tenth of a second at hundreds of parameters.
TPE = Kind(_tpe, attempts=8)
# A suggestion takes seconds at 100 parameters: for small spaces and expensive evaluations.
GP = Kind(_gp, attempts=4, needs=("torch", "scipy"), remedy="Install it, or choose tpe or paretune")
# A suggestion is cheap, and one of the parents' children is worth more than a random point.
NSGA2 = Kind(_nsga2, attempts=64)
NSGA3 = Kind(_nsga3, attempts=64)


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Trials that were told, in the order of telling."""
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(found, key=lambda trial: (trial.datetime_complete, trial.number))


def _knowing(problem: Problem, kind: type[BaseSampler]) -> Callable[..., BaseSampler]:
    """The same sampler, told what the parameters are: it would compare those of all trials before each proposal."""

    class Knowing(kind):  # type: ignore[misc, valid-type]
        def infer_relative_search_space(
            self, study: Study, trial: FrozenTrial
        ) -> dict[str, BaseDistribution]:
            del study, trial
            return problem.distributions

    return Knowing


def _in_order(kind: Any) -> Callable[..., BaseSampler]:
    """A genetic sampler whose generations are filled in the order of telling, by whoever proposed a trial.

    Baselines count too, and a resumed search, told the same, has the same parents: what selection throws dice for
    depends on the generation alone.
    """

    class InOrder(kind):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self._settings = settings

        def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
            del trial  # the one that is being proposed
            return len(complete_trials(study)) // POPULATION

        def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
            return complete_trials(study)[generation * POPULATION :][:POPULATION]

        def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
            with without_warnings():
                chooser = InOrder(**{**self._settings, "seed": derived_seed(generation)})
            found: list[FrozenTrial] = super(InOrder, chooser).select_parent(study, generation)
            return found

        def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
            # As Optuna returns them once they are selected; the first time it has them in another order.
            found = super().get_parent_population(study, generation)
            return sorted(found, key=lambda trial: trial.number)

    return InOrder


def divisions(objectives: int, population: int) -> int:
    """Divisions of each axis (Das and Dennis, 1998) that give at most ``population`` directions."""
    found = 1
    while found < population and comb(found + objectives, objectives - 1) <= population:
        found += 1
    return found


def derived_seed(*key: int) -> int:
    """32 bits of the numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def make(kind: Kind, problem: Problem, seed: int) -> BaseSampler:
    """A sampler of a kind."""
    with without_warnings():
        return kind.make(problem, seed)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without the warning that a sampler is new: the version of Optuna is bounded."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        yield
