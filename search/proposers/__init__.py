"""Samplers by name: one file and one line each. The module is imported when the sampler is asked for."""

from __future__ import annotations

from importlib import import_module

from search.proposers.proposer import Proposer
from spaces.errors import UnknownNameError

_PROPOSERS = {
    "additive": "search.proposers.additive:AdditiveProposer",
    "gp": "search.proposers.optuna_gp:GaussianProcessProposer",
    "nsga2": "search.proposers.nsga2:Nsga2Proposer",
    "nsga3": "search.proposers.nsga3:Nsga3Proposer",
    "paretune": "search.proposers.paretune:ParetuneProposer",
    "random": "search.proposers.random:RandomProposer",
    "tpe": "search.proposers.tpe:TpeProposer",
}


def proposer_names() -> tuple[str, ...]:
    """Every registered sampler."""
    return tuple(_PROPOSERS)


def find_proposer(name: str) -> type[Proposer]:
    """The sampler called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _PROPOSERS:
        raise UnknownNameError("sampler", name, _PROPOSERS)
    module, _, attribute = _PROPOSERS[name].partition(":")
    found = getattr(import_module(module), attribute)
    assert issubclass(found, Proposer)  # noqa: S101 -- the table above is ours
    return found  # type: ignore[no-any-return]


__all__ = ["Proposer", "find_proposer", "proposer_names"]
