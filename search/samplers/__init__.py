"""Samplers by name, one line each; those of Optuna share a file. Modules are imported when a sampler is asked for."""

from __future__ import annotations

from importlib import import_module

from paretune.search.samplers.sampler import Sampler
from paretune.spaces.errors import UnknownNameError

_SAMPLERS = {
    "additive": "paretune.search.samplers.additive:AdditiveSampler",
    "gp": "paretune.search.samplers.optuna_samplers:GaussianProcessSampler",
    "nsga2": "paretune.search.samplers.optuna_samplers:Nsga2Sampler",
    "nsga3": "paretune.search.samplers.optuna_samplers:Nsga3Sampler",
    "paretune": "paretune.search.samplers.paretune:ParetuneSampler",
    "random": "paretune.search.samplers.random:RandomSampler",
    "tpe": "paretune.search.samplers.optuna_samplers:TpeSampler",
}


def sampler_names() -> tuple[str, ...]:
    """Every registered sampler."""
    return tuple(_SAMPLERS)


def find_sampler(name: str) -> type[Sampler]:
    """The sampler called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _SAMPLERS:
        raise UnknownNameError("sampler", name, _SAMPLERS)
    module, _, attribute = _SAMPLERS[name].partition(":")
    found = getattr(import_module(module), attribute)
    assert issubclass(found, Sampler)  # noqa: S101 -- the table above is ours
    return found  # type: ignore[no-any-return]


__all__ = ["Sampler", "find_sampler", "sampler_names"]
