"""The usual partition of sites: what serving engines fuse (q/k/v, gate/up, the experts of a block)."""

from __future__ import annotations

from spaces.legality import FusedGroup
from spaces.model import ModelSpec

_PART = {
    "q": "qkv",
    "k": "qkv",
    "v": "qkv",
    "qkv": "qkv",
    "o": "o",
    "gate": "gate_up",
    "up": "gate_up",
    "gate_up": "gate_up",
    "down": "down",
    "expert_gate_up": "experts",
    "expert_down": "experts",
    "embedding": "embedding",
    "head": "head",
}


def fused_groups(spec: ModelSpec) -> tuple[FusedGroup, ...]:
    """q/k/v, gate/up and the experts of a block share a choice; a tied head moves with the embedding."""
    gathered: dict[tuple[int | None, str], list[str]] = {}
    for linear in spec.linears:
        if not (spec.tied and linear.role == "head"):
            gathered.setdefault((linear.block, _PART[linear.role]), []).append(linear.name)
    return tuple(_group(block, part, sites) for (block, part), sites in gathered.items())


def single_groups(spec: ModelSpec) -> tuple[FusedGroup, ...]:
    """Every site alone, for engines that fuse nothing."""
    return tuple(
        _group(linear.block, linear.role, [linear.name])
        for linear in spec.linears
        if not (spec.tied and linear.role == "head")
    )


def _group(block: int | None, part: str, sites: list[str]) -> FusedGroup:
    name = part if block is None else f"blocks.{block}.{part}"
    kind = part if part in ("embedding", "head") else "linear"
    return FusedGroup.model_validate({"name": name, "kind": kind, "block": block, "sites": tuple(sites)})
