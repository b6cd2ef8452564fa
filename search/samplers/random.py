"""Uniform random search, the yardstick of every other sampler (Bergstra and Bengio, 2012)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import product

import numpy as np

from paretune.search.samplers.sampler import Observation, Problem, Sampler
from paretune.spaces.space import Point

_TRIES = 200
_ENUMERABLE = 4096


class RandomSampler(Sampler):
    """Legal points, uniform over the parameters."""

    name = "random"

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._seen: set[str] = set()

    def tell(self, observation: Observation) -> None:
        """Never propose it again."""
        self._seen.add(self.problem.space.decode(observation.point).digest)

    def propose(self, trial: int) -> Point | None:
        """A random point that is new, within the limits where one is found."""
        return random_point(self.problem, self._seen, self.random(trial))


def random_point(problem: Problem, seen: Collection[str], random: np.random.Generator) -> Point | None:
    """A legal point whose configuration is not in ``seen``; ``None`` when there is none left.

    An admissible one where a bounded number of draws finds one, else the first that breaks only limits. Small
    spaces are drawn from without replacement, so that none of their points is missed.

    Args:
        problem: what is searched.
        seen: digests of configurations that are known.
        random: the source of chance.
    """
    beyond_limits: Point | None = None
    for point in _draws(problem, random):
        if not is_new(problem, seen, point):
            continue
        if problem.admissible(point):
            return point
        beyond_limits = beyond_limits or point
    return beyond_limits


def is_new(problem: Problem, seen: Collection[str], point: Point) -> bool:
    """Whether a point is legal and its configuration not in ``seen``."""
    return bool(problem.space.ruling(point)) and problem.space.decode(point).digest not in seen


def _draws(problem: Problem, random: np.random.Generator) -> Iterator[Point]:
    sizes = problem.space.sizes
    if math.prod(sizes) <= _ENUMERABLE:
        points = list(product(*map(range, sizes)))
        yield from (points[int(index)] for index in random.permutation(len(points)))
    else:
        yield from (problem.space.random(random) for _ in range(_TRIES))
