"""The role that every sampler plays: told what was measured, it proposes what to measure next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from paretune.search.observation import Observation, Problem
from paretune.spaces.space import Point


class Sampler(ABC):
    """Proposes points.

    What it proposes depends on its seed, the number of the trial, what it was told, in that order, and its state:
    a killed search is resumed by telling a new one the records and handing it the state of the old. Nothing is asked
    for again.

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

    def state(self) -> dict[str, Any]:
        """What it needs to go on besides what it is told, as JSON; points are lists of indices."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 -- most samplers have no state
        """Go on from the :meth:`state` of another, once everything is told that the other was told."""

    def random(self, trial: int) -> np.random.Generator:
        """The random numbers of one trial."""
        return np.random.default_rng([self.seed, trial])
