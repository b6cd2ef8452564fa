"""The role that every sampler plays: told what was measured, it proposes what to measure next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from paretune.search.observation import Observation, Problem
from paretune.spaces.space import Point


class Sampler(ABC):
    """Proposes points.

    What it proposes depends on its seed and on what it was told and asked, in that order, and on nothing else: a
    killed search is resumed by telling and asking the same again.

    Attributes:
        name: registered name.
        uses_marginals: whether the study measures marginals for it before it is asked.
    """

    name: ClassVar[str]
    uses_marginals: ClassVar[bool] = False

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = seed

    @abstractmethod
    def tell(self, observation: Observation) -> None:
        """Take note of a scored candidate, whoever proposed it (baselines, probes and marginals too)."""

    @abstractmethod
    def propose(self, trial: int) -> Point | None:
        """A legal point for trial number ``trial``; ``None`` when it has nothing new to propose."""

    def random(self, trial: int) -> np.random.Generator:
        """The random numbers of one trial."""
        return np.random.default_rng([self.seed, trial])
