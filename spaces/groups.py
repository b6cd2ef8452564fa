"""The usual partition of layers: what serving engines fuse (q/k/v, gate/up, the experts of a block)."""

from __future__ import annotations

from paretune.spaces.errors import SpaceError
from paretune.spaces.legality import FusedGroup
from paretune.spaces.methods import BLOCK_METHODS
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import GroupRule, Restrictions

_PARTS = {
    "q": "qkv",
    "k": "qkv",
    "v": "qkv",
    "qkv": "qkv",
    "o": "o",
    "gate": "gate_up",
    "up": "gate_up",
    "gate_up": "gate_up",
    "down": "down",
    "shared_gate": "shared_gate_up",
    "shared_up": "shared_gate_up",
    "expert_gate_up": "experts",
    "expert_up": "experts",
    "expert_down": "experts",
    "linear_attn.in_proj_qkv": "in_proj_qkvz",
    "linear_attn.in_proj_z": "in_proj_qkvz",
    "self_attn.q_a_proj": "qkv_a",
    "self_attn.kv_a_proj_with_mqa": "qkv_a",
}
"""What serving engines multiply in one product; every other role is a group of its own."""


def fused_groups(spec: ModelSpec) -> tuple[FusedGroup, ...]:
    """q/k/v, gate/up and the experts of a block share a choice; a tied head moves with the embedding."""
    gathered: dict[tuple[int | None, str], list[str]] = {}
    for linear in spec.linears:
        if not (spec.tied and linear.role == "head"):
            gathered.setdefault((linear.block, _PARTS.get(linear.role, linear.role)), []).append(linear.name)
    return tuple(_group(block, part, layers) for (block, part), layers in gathered.items())


def single_groups(spec: ModelSpec) -> tuple[FusedGroup, ...]:
    """Every layer alone, for engines that fuse nothing."""
    return tuple(
        _group(linear.block, linear.role, [linear.name])
        for linear in spec.linears
        if not (spec.tied and linear.role == "head")
    )


def whole_blocks(
    groups: tuple[FusedGroup, ...], restrictions: Restrictions
) -> tuple[tuple[FusedGroup, GroupRule], ...]:
    """Groups and what they may be; where a method scales whole blocks, those of a block become ``blocks.N``.

    Raises:
        SpaceError: rules tell parts of such a block apart.
    """
    ruled = [(group, restrictions.rule(group)) for group in groups]
    merged = {group.block for group, rule in ruled if group.block is not None and _scales_blocks(rule)}
    found: dict[str, tuple[FusedGroup, GroupRule]] = {}
    for group, rule in ruled:
        if group.block not in merged:
            found[group.name] = group, rule
            continue
        name = f"blocks.{group.block}"
        before, first = found.get(name, (group.model_copy(update={"layers": ()}), rule))
        if rule != first:
            raise SpaceError(
                f"rules for {group.name}",
                f"differ from those for the rest of block {group.block}, which is scaled as a whole",
                f"Allow {' or '.join(sorted(BLOCK_METHODS))} in other blocks only, or the same for all of this one",
            )
        layers = (*before.layers, *group.layers)
        found[name] = before.model_copy(update={"name": name, "layers": layers}), first
    return tuple(found.values())


def _scales_blocks(rule: GroupRule) -> bool:
    formats = (find_choice(name).method for name in rule.formats)
    return not BLOCK_METHODS.isdisjoint((*rule.methods, *formats))


def _group(block: int | None, part: str, layers: list[str]) -> FusedGroup:
    name = part if block is None else f"blocks.{block}.{part}"
    kind = part if part in ("embedding", "head") else "linear"
    return FusedGroup.model_validate({"name": name, "kind": kind, "block": block, "layers": tuple(layers)})
