"""The exact front of the additive model: marginals, dynamic programming, nothing learned.

What AMQ, HAWQ-V3 and AutoScheme's allocators approximate; here it is exact on bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import TrialState

from paretune.search.additive import MOST_CELLS, FrontMaker
from paretune.search.samplers.cost_tables import CostTables
from paretune.search.samplers.problem import Observation, Problem, random_point
from paretune.spaces.errors import SpaceError
from paretune.spaces.space import Point

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_MEMBERS = 256


class AdditiveSampler(BaseSampler):
    """Proposes members of the exact additive front, the widest gap in cost first.

    A sampler for any study over categoricals whose first objective is measured and whose others are known sums.
    Finished trials are read from the study, whoever proposed them: those that change one parameter of the best choices
    are marginals, and correct the prior. Running ones are pending, and not proposed again. Whatever a trial asks for
    that is not among the problem's parameters is drawn at random. ``trial.set_user_attr("tokens", n)`` says on how much
    data a value stands.

    Args:
        problem: parameters and what they cost, :class:`CostTables` or another. Where it is left out, the categoricals
            that all trials have, at no cost.
        seed: of everything random; another one each time where it is left out.

    Attributes:
        converged: whether it expected nothing better of any point when it was last asked, and drew one at random. A
            study that should stop then needs a callback which says so.
    """

    most_cells: ClassVar[int] = MOST_CELLS

    def __init__(self, problem: Problem | None = None, *, seed: int | None = None) -> None:
        self.converged = False
        self._given = problem
        self._spaces = IntersectionSearchSpace()
        self._independent = RandomSampler(seed=seed)
        self.seed = int(np.random.SeedSequence(seed).generate_state(1)[0]) if seed is None else seed
        self._begin(problem or CostTables())

    def _begin(self, problem: Problem) -> None:
        """Forget everything: the problem is another."""
        self.problem = problem
        self.evidence = problem.evidence()
        self._told: set[int] = set()
        self.pending: dict[Hashable, Point] = {}
        self.maker = FrontMaker(problem, self.most_cells)
        self._queue: list[Point] | None = None

    # -- what Optuna asks for -------------------------------------------------------------------------------

    def reseed_rng(self) -> None:
        """See Optuna: processes that share a study draw different numbers."""
        self.seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The problem's parameters, or the categoricals that all trials have."""
        del trial
        if self._given is not None:
            return dict(self._given.distributions)
        found = self._spaces.calculate(study).items()
        return {name: d for name, d in found if isinstance(d, CategoricalDistribution) and not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of the next proposal."""
        found: dict[str, Any] = {}
        choices = {n: d.choices for n, d in search_space.items() if isinstance(d, CategoricalDistribution)}
        if choices:
            if self._given is None and choices != dict(
                zip(self.problem.names, self.problem.choices, strict=True)
            ):
                self._begin(CostTables(choices=choices))
            self._learn(study, trial.number)
            point = self.next_point(trial.number)
            self.converged = point is None
            found = self.problem.parameters(point or self._any_point(trial.number))
        return {
            name: found[name] if name in found else self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _learn(self, study: Study, number: int) -> None:
        """Read the trials that ended since, in the order in which they did; see what is pending."""
        if [direction.name == "MAXIMIZE" for direction in study.directions] != [
            s < 0 for s in self.problem.signs
        ]:
            wanted = ", ".join("maximize" if sign < 0 else "minimize" for sign in self.problem.signs)
            raise SpaceError(
                f"a study of {', '.join(d.name.lower() for d in study.directions)}",
                f"the sampler's problem is {wanted}",
                "Give it a table of costs for each objective after the first, and the study's directions",
            )
        ended = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
        new = [t for t in study.get_trials(deepcopy=False, states=ended) if t.number not in self._told]
        for trial in sorted(new, key=lambda trial: (trial.datetime_complete, trial.number)):
            self._told.add(trial.number)
            point = self.problem.point(trial.params)
            if point is not None:
                self.evidence.add(self._observation(trial, point))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        points = [self.problem.point(trial.params) for trial in running if trial.number != number]
        self.pending = {self.problem.key(point): point for point in points if point is not None}

    def _observation(self, trial: FrozenTrial, point: Point) -> Observation:
        broken = trial.state != TrialState.COMPLETE
        loss, *costs = (
            [float("nan")] * len(self.problem.signs)
            if broken
            else [sign * value for sign, value in zip(self.problem.signs, trial.values, strict=True)]
        )
        return Observation(
            point=point,
            values=(loss - self.problem.signs[0] * self.problem.reference, *costs),
            tokens=int(trial.user_attrs.get("tokens", 0)),
            violations=tuple(trial.constraints.values()),
            broken=broken,
        )

    def _any_point(self, number: int) -> Point:
        """Where nothing better is expected: something that was not read, if there is any."""
        known = {self.problem.key(o.point) for o in self.evidence.observations} | set(self.pending)
        random = np.random.default_rng([self.seed, number])
        return random_point(self.problem, known, random) or self.problem.draw(random)

    # -- what it proposes ------------------------------------------------------------------------------------

    def next_point(self, number: int) -> Point | None:  # noqa: ARG002 -- nothing here is random
        """The next member of the front that is admissible and new, for trial ``number``."""
        if self._queue is None:
            self._queue = by_gap(self.front(_MEMBERS))
        return self.take(self._queue)

    def take(self, queue: list[Point]) -> Point | None:
        """The first of a queue that may be measured; those before it are dropped."""
        while queue:
            point = queue.pop(0)
            if self.is_new(point):
                return point
        return None

    def state(self) -> dict[str, Any]:
        """What it needs to go on besides its study, as JSON: what is left of the front."""
        return {"queue": self._queue}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the :meth:`state` of another."""
        self._queue = as_points(state["queue"])

    def front(self, members: int) -> list[Point]:
        """Members of the exact front over every cost, by what is known before candidates are learned from."""
        entries, shapes = self.problem.prior(self.evidence), self.evidence.shapes
        fronts = [self.maker.fronts(entries, shapes, {metric: 1.0}, members) for metric in self.problem.costs]
        return [member.point for front in fronts for member in front]

    def is_new(self, point: Point) -> bool:
        """Whether it was not told yet, or only read on little text, is not pending, and may be measured."""
        if self.evidence.is_read(point) or not self.problem.admissible(point):
            return False
        return not self.pending or self.problem.key(point) not in self.pending


def as_points(kept: Sequence[Sequence[int]] | None) -> list[Point] | None:
    """Points that were written as JSON."""
    return None if kept is None else [tuple(point) for point in kept]


def by_gap(points: list[Point]) -> list[Point]:
    """A list reordered so that every prefix is spread evenly: ends, middle, quarters ..."""
    order: dict[int, None] = {}
    steps = [np.linspace(0, len(points) - 1, 2**k + 1) for k in range(max(1, len(points)).bit_length() + 1)]
    for index in (round(float(x)) for step in steps for x in step):
        if 0 <= index < len(points):
            order[index] = None
    return [points[index] for index in order]
