"""The samplers of Optuna: a study in memory, told finished trials, asked for one point at a time.

The samplers are driven through ``BaseSampler.sample_relative`` and ``sample_independent`` with the whole
space in hand, never one suggestion per parameter through a storage: at 224 parameters that is most of a trial's cost.
Each proposal takes a fresh sampler seeded by ``(seed, trial)``, so it depends on the trials told and on
nothing else.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from math import comb
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from paretune.search.samplers.random import is_new, random_point
from paretune.search.samplers.sampler import Observation, Problem, Sampler
from paretune.spaces.errors import ParetuneError
from paretune.spaces.space import Point

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
    from optuna.trial import FrozenTrial


class OptunaBackedSampler(Sampler):
    """Proposes what a sampler of Optuna suggests, where it is legal, new and within the limits.

    Attributes:
        attempts: how many suggestions are tried before a random point is taken.
    """

    attempts: ClassVar[int] = 16

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        import optuna

        # One line a trial would drown the progress of the search; warnings stay.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            directions=["minimize"] * len(problem.objectives),
            sampler=optuna.samplers.RandomSampler(seed=seed),
        )
        self._free = [index for index, size in enumerate(problem.space.sizes) if size > 1]
        self._distributions: dict[str, BaseDistribution] = {
            problem.space.parameters[index].name: optuna.distributions.CategoricalDistribution(
                range(problem.space.sizes[index])
            )
            for index in self._free
        }
        self._seen: set[str] = set()

    @abstractmethod
    def make_sampler(self, seed: int) -> BaseSampler:
        """A sampler whose chance is determined by ``seed``, 32 bits."""

    def tell(self, observation: Observation) -> None:
        """Add a finished trial with its values and constraints; one without a quality is only not proposed again."""
        from optuna.trial import create_trial

        self._seen.add(self.problem.space.decode(observation.point).digest)
        names = self._distributions
        if observation.broken:
            return
        trial = create_trial(
            values=[_comparable(value) for value in observation.values],
            params={name: observation.point[index] for name, index in zip(names, self._free, strict=True)},
            distributions=self._distributions,
            constraints={
                str(number): _comparable(violation) for number, violation in enumerate(observation.violations)
            },
        )
        self.study.add_trial(trial)

    def propose(self, trial: int) -> Point | None:
        """The first acceptable of a few suggestions, else a random point; ``None`` when all are known."""
        return self._suggest(trial) or random_point(self.problem, self._seen, self.random(trial))

    def optuna_sampler(self, *key: int) -> BaseSampler:
        """A fresh sampler seeded by the sampler's seed and ``key``."""
        seed = int(np.random.SeedSequence([self.seed, *key]).generate_state(1)[0])
        with warnings.catch_warnings():
            # What is used of the samplers is stable enough: the version of Optuna is bounded.
            warnings.filterwarnings("ignore", category=_experimental_warning())
            return self.make_sampler(seed)

    def _suggest(self, trial: int) -> Point | None:
        if not self._free:
            return None
        sampler = self.optuna_sampler(trial)
        with self.running_trial() as frozen:
            for _ in range(self.attempts):
                point = self._sample(sampler, frozen)
                if is_new(self.problem, self._seen, point) and self.problem.admissible(point):
                    return point
        return None

    def _sample(self, sampler: BaseSampler, frozen: FrozenTrial) -> Point:
        """One suggestion; parameters that the sampler leaves out are drawn one by one."""
        found = sampler.sample_relative(self.study, frozen, self._distributions)
        point = [0] * len(self.problem.space.sizes)
        for index, (name, distribution) in zip(self._free, self._distributions.items(), strict=True):
            if name not in found:
                found[name] = sampler.sample_independent(self.study, frozen, name, distribution)
            point[index] = int(found[name])
        return tuple(point)

    @contextmanager
    def running_trial(self) -> Iterator[FrozenTrial]:
        """An unfinished trial, which samplers need while they work; they ignore it afterwards.

        It also makes the study forget the list of trials that samplers work on, which Optuna keeps from one
        call of ``ask`` to the next: without it they would not see what was told in between.
        """
        from optuna.trial import TrialState

        running = self.study.ask()
        try:
            yield self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))[-1]
        finally:
            self.study.tell(running, state=TrialState.FAIL)


class TpeSampler(OptunaBackedSampler):
    """Multi-objective TPE (Ozaki et al., 2022), multivariate: all parameters are drawn together."""

    name = "tpe"
    # Each suggestion fits the estimators anew, a tenth of a second at hundreds of parameters.
    attempts = 8

    def make_sampler(self, seed: int) -> TPESampler:
        """Baselines count towards the start, so the model is used from the first proposals on."""
        from optuna.samplers import TPESampler

        return TPESampler(multivariate=True, group=False, constant_liar=False, seed=seed)


POPULATION = 32
"""Candidates per generation. Searches have hundreds of candidates: with more they would hardly evolve."""

_SELECTION = 1


class Nsga2Sampler(OptunaBackedSampler):
    """NSGA-II (Deb et al., 2002): non-dominated sorting and crowding distance.

    Everything that is told, baselines too, fills generations in the order of telling; the parents of the next one are
    selected as soon as a generation is full. So a resumed search, told the same, has the same parents.
    """

    name = "nsga2"
    # A suggestion is cheap, and one of the parents' children is worth more than a random point.
    attempts = 64

    def tell(self, observation: Observation) -> None:
        """Add it to the open generation; select parents when that is full."""
        super().tell(observation)
        if observation.broken:
            return
        generation, rest = divmod(len(complete_trials(self.study)), POPULATION)
        if rest == 0:
            # Selection may throw dice (NSGA-III's niches): the study keeps the parents once and for all.
            with self.running_trial():
                sampler = self.optuna_sampler(generation, _SELECTION)
                sampler.get_parent_population(self.study, generation)  # type: ignore[attr-defined]

    def make_sampler(self, seed: int) -> NSGAIISampler | NSGAIIISampler:
        """Uniform crossover, one mutation a child on average."""
        from optuna.samplers import NSGAIISampler

        found: NSGAIISampler = _in_order(NSGAIISampler)(population_size=POPULATION, seed=seed)
        return found


class Nsga3Sampler(Nsga2Sampler):
    """NSGA-III (Deb and Jain, 2014): niches around reference directions, for many objectives."""

    name = "nsga3"

    def make_sampler(self, seed: int) -> NSGAIIISampler:
        """As many reference directions as the population can fill."""
        from optuna.samplers import NSGAIIISampler

        directions = divisions(len(self.problem.objectives), POPULATION)
        found: NSGAIIISampler = _in_order(NSGAIIISampler)(
            population_size=POPULATION, dividing_parameter=directions, seed=seed
        )
        return found


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Trials that were told, in the order of telling."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


@cache
def _in_order(kind: type[Any]) -> type[Any]:
    """A genetic sampler whose generations are filled in the order of telling, by whoever proposed a trial."""

    class InOrder(kind):  # type: ignore[misc]
        def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
            del trial  # the one that is being proposed
            return len(complete_trials(study)) // POPULATION

        def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
            return complete_trials(study)[generation * POPULATION :][:POPULATION]

    return InOrder


def divisions(objectives: int, population: int) -> int:
    """Divisions of each axis (Das and Dennis, 1998) that give at most ``population`` directions."""
    found = 1
    while found < population and comb(found + objectives, objectives - 1) <= population:
        found += 1
    return found


class SamplerUnavailableError(ParetuneError):
    """A sampler whose libraries are not installed."""


class GaussianProcessSampler(OptunaBackedSampler):
    """Gaussian processes with expected hypervolume improvement (Daulton et al., 2020), one per objective and limit.

    Seconds per proposal at 100 parameters and more: for small spaces and expensive evaluations.

    Raises:
        SamplerUnavailableError: torch or scipy cannot be imported.
    """

    name = "gp"
    # A suggestion takes seconds; one that was rejected counts as pending, so the next differs.
    attempts = 2

    def __init__(self, problem: Problem, seed: int) -> None:
        for library in ("torch", "scipy"):
            try:
                import_module(library)
            except ImportError as error:
                raise SamplerUnavailableError(
                    "sampler 'gp'", f"needs {library} ({error})", f"Install {library} or use tpe or paretune"
                ) from error
        super().__init__(problem, seed)

    def make_sampler(self, seed: int) -> GPSampler:
        """Noisy objectives: the search text is a sample."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed)

    def _suggest(self, trial: int) -> Point | None:
        with warnings.catch_warnings():
            # A KL that overflows is told as infinite and counts as the worst finite one: as it should.
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            return super()._suggest(trial)


def _comparable(value: float) -> float:
    """Optuna refuses values that are not a number: nothing is worse than them."""
    return math.inf if math.isnan(value) else float(value)


def _experimental_warning() -> type[Warning]:
    from optuna.exceptions import ExperimentalWarning

    return ExperimentalWarning
