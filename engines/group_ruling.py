"""Whether an engine takes a whole configuration: pruned model, cache, then group by group or layer by layer."""

from __future__ import annotations

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.groups import single_groups
from paretune.spaces.legality import LEGAL, Legality, Ruling, illegal
from paretune.spaces.model import ModelSpec


def ruling_by_group(legality: Legality, spec: ModelSpec, config: CompressionConfig) -> Ruling:
    """The first refusal: of the pruned model, the cache, a group whose layers differ, or a group's choice."""
    for verdict in (legality.pruned(spec, config.pruned), legality.kv(spec, config.kv)):
        if not verdict:
            return verdict
    for group in legality.groups(spec):
        if not config.keeps_block(group.block):
            continue
        choices = {layer: config.choice(layer) for layer in group.layers}
        first = choices[group.layers[0]]
        other = next((layer for layer, choice in choices.items() if choice != first), None)
        if other is not None:
            return illegal(
                f"{group.layers[0]} has {first.name} and {other} has {choices[other].name}, but {legality.engine}"
                f" fuses them ({group.name})",
                legality.engine,
            )
        verdict = legality.choice(spec, group, first, config.pruned)
        if not verdict:
            return verdict.model_copy(update={"reason": f"{group.name}: {verdict.reason}"})
    return LEGAL


def ruling_by_layer(legality: Legality, spec: ModelSpec, config: CompressionConfig) -> Ruling:
    """The first refusal of an engine that fuses nothing on loading: of the cut, the cache, or a layer's choice."""
    for verdict in (legality.pruned(spec, config.pruned), legality.kv(spec, config.kv)):
        if not verdict:
            return verdict
    for group in single_groups(spec):
        layer = group.layers[0]
        if config.keeps_block(group.block):
            verdict = legality.choice(spec, group, config.choice(layer), config.pruned)
            if not verdict:
                return verdict.model_copy(update={"reason": f"{layer}: {verdict.reason}"})
    return LEGAL
