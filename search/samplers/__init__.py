"""Samplers by name, one line each. Modules are imported when a sampler is asked for."""

from __future__ import annotations

from paretune.search.samplers.kinds import Kind
from paretune.spaces.registry import Registry

SAMPLERS: Registry[Kind] = Registry(
    "sampler",
    __name__,
    {
        "additive": "kinds:ADDITIVE",
        "annealing": "kinds:ANNEALING",
        "gp": "kinds:GP",
        "greedy": "kinds:GREEDY",
        "lp": "kinds:LINEAR_PROGRAM",
        "nsga2": "kinds:NSGA2",
        "nsga3": "kinds:NSGA3",
        "paretune": "kinds:PARETUNE",
        "random": "kinds:RANDOM",
        "tpe": "kinds:TPE",
    },
)
sampler_names, find_sampler = SAMPLERS.names, SAMPLERS.find

__all__ = ["Kind", "find_sampler", "sampler_names"]
