"""NSGA-III (Deb and Jain, 2014) of Optuna: niches around reference directions, for many objectives."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

from paretune.search.samplers.nsga2 import POPULATION, Nsga2Sampler

if TYPE_CHECKING:
    from optuna.samplers import NSGAIIISampler


class Nsga3Sampler(Nsga2Sampler):
    """Non-dominated sorting and niches."""

    name = "nsga3"

    def make_sampler(self, seed: int) -> NSGAIIISampler:
        """As many reference directions as the population can fill."""
        from optuna.samplers import NSGAIIISampler

        return NSGAIIISampler(
            population_size=POPULATION,
            dividing_parameter=divisions(len(self.problem.objectives), POPULATION),
            seed=seed,
        )


def divisions(objectives: int, population: int) -> int:
    """Divisions of each axis (Das and Dennis, 1998) that give at most ``population`` directions."""
    found = 1
    while found < population and comb(found + objectives, objectives - 1) <= population:
        found += 1
    return found
