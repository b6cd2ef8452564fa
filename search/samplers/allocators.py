"""Allocations of the field, on the same marginals as ours: greedy by sensitivity, linear program, simulated annealing.

None learns from candidates: what they would choose under every budget is proposed, the widest gap in cost first.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from paretune.search.additive import relaxed_front, undominated
from paretune.search.loss_model import FLOOR
from paretune.search.samplers.additive import AdditiveSampler
from paretune.spaces.space import Point

_SWEEPS = 100
_HOTTEST, _COLDEST = 1.0, 1e-3
"""In log loss."""


class AllocatorSampler(AdditiveSampler):
    """Proposes what a method allocates under every budget."""

    def front(self, members: int) -> list[Point]:
        """At most so many allocations per cost."""
        entries, shapes = self.problem.prior(self.evidence), self.evidence.shapes

        def allocate(costs: list[np.ndarray], losses: list[np.ndarray]) -> np.ndarray:
            found = self.allocate(costs, losses, members)
            kept: np.ndarray = found[np.unique(np.linspace(0, len(found) - 1, members).astype(int))]
            return kept

        fronts = [self.maker.allocated(entries, shapes, metric, allocate) for metric in self.problem.costs]
        return [member.point for front in fronts for member in front]

    @abstractmethod
    def allocate(self, costs: list[np.ndarray], losses: list[np.ndarray], members: int) -> np.ndarray:
        """Points ``(points, parameters)`` from costs and losses of every choice."""


class GreedySampler(AllocatorSampler):
    """By sensitivity, as NNCF and Olive do it: parameters become cheaper in the order of what that alone loses.

    All go to their second dearest choice, the least sensitive first, then all to the next.
    """

    def allocate(self, costs: list[np.ndarray], losses: list[np.ndarray], members: int) -> np.ndarray:
        """One point per step."""
        del members
        kept = [undominated(c, loss)[::-1] for c, loss in zip(costs, losses, strict=True)]
        steps = sorted(
            (rank, float(losses[p][choices[rank]]), p)
            for p, choices in enumerate(kept)
            for rank in range(1, len(choices))
        )
        found = np.repeat([[choices[0] for choices in kept]], len(steps) + 1, axis=0)
        for place, (rank, _, parameter) in enumerate(steps):
            found[place + 1 :, parameter] = kept[parameter][rank]
        return found


class LinearProgramSampler(AllocatorSampler):
    """The linear relaxation under every budget, as ModelOpt's AutoQuantize solves it under one."""

    def allocate(self, costs: list[np.ndarray], losses: list[np.ndarray], members: int) -> np.ndarray:
        """Its whole solutions."""
        del members
        return relaxed_front(costs, losses)


class AnnealingSampler(AllocatorSampler):
    """Simulated annealing under each of many budgets (Kirkpatrick et al., 1983), as exllamav2 allocates bits.

    Chains of all budgets run side by side. A move gives two parameters other choices; what breaks the budget is
    refused, what loses more is taken by chance.
    """

    def allocate(self, costs: list[np.ndarray], losses: list[np.ndarray], members: int) -> np.ndarray:
        """One point per budget."""
        random = np.random.default_rng([self.seed, len(costs)])
        kept = [undominated(c, loss) for c, loss in zip(costs, losses, strict=True)]
        chosen = np.tile([int(choices[0]) for choices in kept], (members, 1))
        cost = np.full(members, sum(float(c[k[0]]) for c, k in zip(costs, kept, strict=True)))
        total = np.full(members, sum(float(loss[k[0]]) for loss, k in zip(losses, kept, strict=True)))
        budgets = np.linspace(
            cost[0], sum(float(c[k[-1]]) for c, k in zip(costs, kept, strict=True)), members
        )
        free = [parameter for parameter, choices in enumerate(kept) if len(choices) > 1] or [0]
        heats = np.geomspace(_HOTTEST, _COLDEST, _SWEEPS * len(free)) / len(free)
        for heat, pair in zip(heats, random.choice(free, (len(heats), 2)), strict=True):
            # Two at a time where they differ: within a budget one gains what another gives.
            moved = {int(p): random.choice(kept[p], members) for p in pair}
            spent, lost = cost.copy(), total.copy()
            for p, new in moved.items():
                spent += costs[p][new] - costs[p][chosen[:, p]]
                lost += losses[p][new] - losses[p][chosen[:, p]]
            worse = np.log(np.maximum(lost, FLOOR) / np.maximum(total, FLOOR))
            taken = (spent <= budgets) & (random.random(members) < np.exp(-np.maximum(worse, 0) / heat))
            for p, new in moved.items():
                chosen[taken, p] = new[taken]
            cost, total = np.where(taken, spent, cost), np.where(taken, lost, total)
        return chosen
