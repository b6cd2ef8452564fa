"""What the samplers of Optuna share: a study in memory, told finished trials, asked for one point at a time.

The samplers are driven through ``BaseSampler.sample_relative`` and ``sample_independent`` with the whole
space in hand, never one suggestion a parameter through a storage: at 224 parameters that is most of a trial's cost.
Each proposal takes a fresh sampler seeded by ``(seed, trial)``, so it depends on the trials told and on
nothing else.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from paretune.search.samplers.random import is_new, random_point
from paretune.search.samplers.sampler import Observation, Problem, Sampler
from paretune.spaces.space import Point

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
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
            system_attrs=self.trial_attributes(),
            constraints={
                str(number): _comparable(violation) for number, violation in enumerate(observation.violations)
            },
        )
        self.study.add_trial(trial)

    def propose(self, trial: int) -> Point | None:
        """The first acceptable of a few suggestions, else a random point; ``None`` when all are known."""
        return self._suggest(trial) or random_point(self.problem, self._seen, self.random(trial))

    def trial_attributes(self) -> dict[str, int]:
        """System attributes that the sampler expects on the next trial."""
        return {}

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
            yield self._frozen(running.number, running._trial_id)
        finally:
            self.study.tell(running, state=TrialState.FAIL)

    def _frozen(self, number: int, identifier: int) -> FrozenTrial:
        from optuna.trial import FrozenTrial, TrialState

        return FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(UTC),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs=self.trial_attributes(),
            intermediate_values={},
            trial_id=identifier,
        )


def _comparable(value: float) -> float:
    """Optuna refuses values that are not a number: nothing is worse than them."""
    return math.inf if math.isnan(value) else float(value)


def _experimental_warning() -> type[Warning]:
    from optuna.exceptions import ExperimentalWarning

    return ExperimentalWarning
