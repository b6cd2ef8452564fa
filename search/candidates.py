"""What to score next: an Optuna study in memory, told what was scored, whose sampler is asked for one trial at a time.

Every sampler is asked as any study asks it, by ``study.ask``: Optuna's own, and ours, which are Optuna's too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paretune.search.samplers.kinds import Kind, derived_seed, make
from paretune.search.samplers.problem import Observation, Problem, random_point
from paretune.spaces.space import Point

if TYPE_CHECKING:
    from optuna import Trial

    from paretune.search.samplers.additive import AdditiveSampler


class Candidates:
    """Points to score.

    Args:
        problem: what is searched.
        kind: of sampler.
        seed: of everything random.

    Attributes:
        study: of all that was told, and of what is pending as trials that run.
        ended: why :meth:`ask` found nothing: every point was proposed, or the sampler expects nothing better of any
            that is left.

    Raises:
        SamplerUnavailableError: a library of the sampler is not installed.
    """

    def __init__(self, problem: Problem, kind: Kind, seed: int) -> None:
        import optuna

        kind.check()
        # One line a trial would drown the progress of the search; warnings stay.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.problem, self.kind, self.seed = problem, kind, seed
        self.ended: Literal["", "exhausted", "converged"] = ""
        self.study = optuna.create_study(
            directions=["minimize"] * len(problem.objectives),
            sampler=optuna.samplers.RandomSampler(seed=seed),
        )
        self._ours: AdditiveSampler | None = None
        if kind.lasting:
            self.study.sampler = self._ours = make(kind, problem, seed)  # type: ignore[assignment]
        self._seen: set[Any] = set()
        self._pending: dict[Point, Trial] = {}

    def tell(self, observation: Observation) -> None:
        """Add a scored candidate, whoever proposed it; one without a quality fails."""
        from optuna.trial import TrialState, create_trial

        self._seen.add(self.problem.key(observation.point))
        limits = {
            str(number): _comparable(violation) for number, violation in enumerate(observation.violations)
        }
        values = None if observation.broken else [_comparable(value) for value in observation.values]
        state = TrialState.FAIL if observation.broken else TrialState.COMPLETE
        running = self._pending.pop(observation.point, None)
        if running is None:
            self.study.add_trial(
                create_trial(
                    state=state, values=values, params=self.problem.parameters(observation.point),
                    distributions=self.problem.distributions, user_attrs={"tokens": observation.tokens},
                    constraints=limits,
                )
            )  # fmt: skip
            return
        running.set_user_attr("tokens", observation.tokens)
        for name, violation in limits.items():
            running.set_constraint(name, violation)
        self.study.tell(running, values, state=state)

    def expect(self, point: Point) -> None:
        """A candidate that was asked for before and is not scored yet."""
        self.study.enqueue_trial(self.problem.parameters(point))
        self._pending[point] = self.study.ask(self.problem.distributions)

    def ask(self, trial: int) -> Point | None:
        """A new and legal point for trial number ``trial``, which is pending until it is told; ``None`` at the end."""
        rejected: list[Trial] = []
        try:
            point = self._from_ours(rejected) if self._ours else self._from_fresh(trial, rejected)
        finally:
            self._fail(rejected)
        if point is None:
            left = random_point(self.problem, self._unwanted(), np.random.default_rng([self.seed, trial]))
            if left is not None and self._ours is None:
                self.expect(left)
                return left
            self.ended = "exhausted" if left is None else "converged"
        return point

    def state(self) -> dict[str, Any]:
        """What the sampler needs to go on besides what it is told, as JSON; points are lists of indices."""
        return {} if self._ours is None else self._ours.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the :meth:`state` of another, once everything is told that the other was told."""
        if self._ours is not None:
            self._ours.restore(state)

    def _from_ours(self, rejected: list[Trial]) -> Point | None:
        sampler = self._ours
        trial, point = self._asked()
        if sampler is None or sampler.converged or point is None:
            rejected.append(trial)
            return None
        self._pending[point] = trial
        return point

    def _from_fresh(self, trial: int, rejected: list[Trial]) -> Point | None:
        """The first acceptable of a few suggestions; those that are not run meanwhile, so that others follow."""
        self.study.sampler = make(self.kind, self.problem, derived_seed(self.seed, trial))
        unwanted = self._unwanted()
        for _ in range(self.kind.attempts if self.problem.distributions else 0):
            asked, point = self._asked()
            if (
                point is not None
                and self.problem.key(point) not in unwanted
                and self.problem.admissible(point)
            ):
                self._pending[point] = asked
                return point
            rejected.append(asked)
        return None

    def _asked(self) -> tuple[Trial, Point | None]:
        with warnings.catch_warnings():
            # A KL that overflows is told as infinite and counts as the worst finite one: as it should.
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            trial = self.study.ask(self.problem.distributions)
        return trial, self.problem.point(trial.params)

    def _fail(self, trials: list[Trial]) -> None:
        from optuna.trial import TrialState

        for trial in trials:
            self.study.tell(trial, state=TrialState.FAIL)

    def _unwanted(self) -> set[Any]:
        return self._seen | {self.problem.key(point) for point in self._pending}


def _comparable(value: float) -> float:
    """Optuna refuses values that are not a number: nothing is worse than them."""
    return math.inf if math.isnan(value) else float(value)
