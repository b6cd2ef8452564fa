"""Samplers by name, one line each; those of Optuna share a file. Modules are imported when a sampler is asked for."""

from __future__ import annotations

from paretune.search.samplers.sampler import Sampler
from paretune.spaces.registry import Registry

SAMPLERS: Registry[type[Sampler]] = Registry(
    "sampler",
    __name__,
    {
        "additive": "additive:AdditiveSampler",
        "gp": "optuna_samplers:GaussianProcessSampler",
        "nsga2": "optuna_samplers:Nsga2Sampler",
        "nsga3": "optuna_samplers:Nsga3Sampler",
        "paretune": "paretune:ParetuneSampler",
        "random": "random:RandomSampler",
        "tpe": "optuna_samplers:TpeSampler",
    },
    classes=True,
)
sampler_names, find_sampler = SAMPLERS.names, SAMPLERS.find

__all__ = ["Sampler", "find_sampler", "sampler_names"]
