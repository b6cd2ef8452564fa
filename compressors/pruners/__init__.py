"""Criteria of pruning by name: one line here for each, one line in the contract test."""

from __future__ import annotations

from paretune.compressors.pruners.pruner import Pruned, Pruner
from paretune.spaces.registry import Registry

PRUNERS: Registry[Pruner] = Registry(
    "criterion",
    __name__,
    {
        "magnitude": "scores:Magnitude",
        "wanda": "scores:Wanda",
        "sparsegpt": "sparsegpt:SparseGpt",
        "taylor": "scores:Taylor",
    },
)
find_pruner = PRUNERS.find

__all__ = ["PRUNERS", "Pruned", "Pruner", "find_pruner"]
