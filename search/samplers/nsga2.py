"""NSGA-II (Deb et al., 2002) of Optuna, one proposal at a time.

Everything that is told, baselines too, fills generations in the order of telling; the parents of the next one
are selected as soon as a generation is full. So a resumed search, told the same, has the same parents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.search.samplers.optuna_sampler import OptunaBackedSampler
from paretune.search.samplers.sampler import Observation, Problem

if TYPE_CHECKING:
    from optuna.samplers import NSGAIIISampler, NSGAIISampler

POPULATION = 32
"""Candidates a generation. Searches have hundreds of candidates: with more they would hardly evolve."""

_SELECTION = 1


class Nsga2Sampler(OptunaBackedSampler):
    """Non-dominated sorting and crowding distance."""

    name = "nsga2"
    # A suggestion is cheap, and one of the parents' children is worth more than a random point.
    attempts = 64

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._told = 0
        self._generation_attribute = self.optuna_sampler(0)._get_generation_key()

    def tell(self, observation: Observation) -> None:
        """Add it to the open generation; select parents when that is full."""
        super().tell(observation)
        if observation.broken:
            return
        self._told += 1
        generation, rest = divmod(self._told, POPULATION)
        if rest == 0:
            # Selection may throw dice (NSGA-III's niches): the study keeps the parents once and for all.
            with self.running_trial():
                self.optuna_sampler(generation, _SELECTION).get_parent_population(self.study, generation)

    def trial_attributes(self) -> dict[str, int]:
        """The number of the open generation."""
        return {self._generation_attribute: self._told // POPULATION}

    def optuna_sampler(self, *key: int) -> NSGAIISampler | NSGAIIISampler:
        """A fresh genetic sampler seeded by the sampler's seed and ``key``."""
        from optuna.samplers import NSGAIIISampler, NSGAIISampler

        found = super().optuna_sampler(*key)
        assert isinstance(found, (NSGAIISampler, NSGAIIISampler))  # noqa: S101 -- made by this class
        return found

    def make_sampler(self, seed: int) -> NSGAIISampler | NSGAIIISampler:
        """Uniform crossover, one mutation a child on average."""
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(population_size=POPULATION, seed=seed)
