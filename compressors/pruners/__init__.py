"""Criteria of pruning by name: one file each, one line here, one line in the contract test."""

from __future__ import annotations

from paretune.compressors.pruners.magnitude import Magnitude
from paretune.compressors.pruners.pruner import Pruned, Pruner
from paretune.compressors.pruners.sparsegpt import SparseGpt
from paretune.compressors.pruners.taylor import Taylor
from paretune.compressors.pruners.wanda import Wanda
from paretune.spaces.errors import UnknownNameError

PRUNERS: dict[str, Pruner] = {
    pruner.name: pruner
    for pruner in (
        Magnitude(),
        Wanda(),
        SparseGpt(),
        Taylor(),
    )
}


def find_pruner(name: str) -> Pruner:
    """The criterion called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PRUNERS:
        raise UnknownNameError("criterion", name, PRUNERS)
    return PRUNERS[name]


__all__ = ["PRUNERS", "Pruned", "Pruner", "find_pruner"]
