"""Multi-objective TPE (Ozaki et al., 2022) of Optuna, multivariate: all parameters are drawn together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.search.samplers.optuna_sampler import OptunaBackedSampler

if TYPE_CHECKING:
    from optuna.samplers import TPESampler


class TpeSampler(OptunaBackedSampler):
    """Ratio of two Parzen estimators: the better candidates and the others."""

    name = "tpe"
    # Each suggestion fits the estimators anew, a tenth of a second at hundreds of parameters.
    attempts = 8

    def make_sampler(self, seed: int) -> TPESampler:
        """Baselines count towards the start, so the model is used from the first proposals on."""
        from optuna.samplers import TPESampler

        return TPESampler(multivariate=True, group=False, constant_liar=False, seed=seed)
