"""Criteria of pruning by name: one file each, one line here, one line in the contract test."""

from __future__ import annotations

from compressors.pruners.magnitude import Magnitude
from compressors.pruners.pruner import Pruned, Pruner
from compressors.pruners.sparsegpt import SparseGpt
from compressors.pruners.taylor import Taylor
from compressors.pruners.wanda import Wanda
from spaces.errors import UnknownNameError

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
