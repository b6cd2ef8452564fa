"""Gaussian processes with expected hypervolume improvement (Daulton et al., 2020), Optuna's own.

Seconds a proposal at 100 parameters and more: for small spaces and expensive evaluations.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

from paretune.search.samplers.optuna_sampler import OptunaBackedSampler
from paretune.search.samplers.sampler import Problem
from paretune.spaces.errors import ParetuneError
from paretune.spaces.space import Point

if TYPE_CHECKING:
    from optuna.samplers import GPSampler


class SamplerUnavailableError(ParetuneError):
    """A sampler whose libraries are not installed."""


class GaussianProcessSampler(OptunaBackedSampler):
    """One Gaussian process an objective and a limit.

    Raises:
        SamplerUnavailableError: torch or scipy cannot be imported.
    """

    name = "gp"
    # A suggestion takes seconds; one that was rejected counts as pending, so the next differs.
    attempts = 2

    def __init__(self, problem: Problem, seed: int) -> None:
        for library in ("torch", "scipy"):
            try:
                import_module(library)
            except ImportError as error:
                raise SamplerUnavailableError(
                    "sampler 'gp'", f"needs {library} ({error})", f"Install {library} or use tpe or paretune"
                ) from error
        super().__init__(problem, seed)

    def make_sampler(self, seed: int) -> GPSampler:
        """Noisy objectives: the search text is a sample."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed)

    def _suggest(self, trial: int) -> Point | None:
        with warnings.catch_warnings():
            # A KL that overflows is told as infinite and counts as the worst finite one: as it should.
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            return super()._suggest(trial)
