"""Uniform random search, the yardstick of every other sampler (Bergstra and Bengio, 2012)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import product

import numpy as np

from search.observation import Observation, Problem
from search.proposers.proposer import Proposer
from spaces.space import Genome

_TRIES = 200
_ENUMERABLE = 4096


class RandomProposer(Proposer):
    """Legal genomes, uniform over the genes."""

    name = "random"

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._seen: set[str] = set()

    def tell(self, observation: Observation) -> None:
        """Never propose it again."""
        self._seen.add(self.problem.space.decode(observation.genome).digest)

    def propose(self, trial: int) -> Genome | None:
        """A random genome that is new, within the limits where one is found."""
        return random_genome(self.problem, self._seen, self.random(trial))


def random_genome(problem: Problem, seen: Collection[str], random: np.random.Generator) -> Genome | None:
    """A legal genome whose configuration is not in ``seen``; ``None`` when there is none left.

    An admissible one where a bounded number of draws finds one, else the first that breaks only limits. Small
    spaces are drawn from without replacement, so that none of their genomes is missed.

    Args:
        problem: what is searched.
        seen: digests of configurations that are known.
        random: the source of chance.
    """
    beyond_limits: Genome | None = None
    for genome in _draws(problem, random):
        if not is_new(problem, seen, genome):
            continue
        if problem.admissible(genome):
            return genome
        beyond_limits = beyond_limits or genome
    return beyond_limits


def is_new(problem: Problem, seen: Collection[str], genome: Genome) -> bool:
    """Whether a genome is legal and its configuration not in ``seen``."""
    return bool(problem.space.ruling(genome)) and problem.space.decode(genome).digest not in seen


def _draws(problem: Problem, random: np.random.Generator) -> Iterator[Genome]:
    sizes = problem.space.sizes
    if math.prod(sizes) <= _ENUMERABLE:
        genomes = list(product(*map(range, sizes)))
        yield from (genomes[int(index)] for index in random.permutation(len(genomes)))
    else:
        yield from (problem.space.random(random) for _ in range(_TRIES))
