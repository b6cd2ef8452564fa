"""Rules asked layer by layer; and whether an engine takes a whole configuration: size, cache, then its groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from paretune.spaces.checking import pruned_ruling
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.groups import single_groups
from paretune.spaces.legality import LEGAL, FusedGroup, Legality, Ruling, illegal
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_shape


@dataclass(frozen=True)
class LayerRules(ABC):
    """Legality (:class:`paretune.spaces.legality.Legality`) of an engine that fuses nothing and rules on every layer.

    Attributes:
        engine: registered name.
        device: name of the device.
    """

    engine: str
    device: str

    def groups(self, spec: ModelSpec) -> tuple[FusedGroup, ...]:
        """Every layer alone."""
        return single_groups(spec)

    def choice(self, spec: ModelSpec, group: FusedGroup, choice: LayerChoice, pruned: PrunedShape) -> Ruling:
        """The first refusal of a layer."""
        for layer in group.layers:
            linear = spec.linear(layer)
            if not (verdict := self.layer(spec, linear, choice, kept_shape(spec, linear, pruned)[1])):
                return verdict
        return LEGAL

    @abstractmethod
    def layer(self, spec: ModelSpec, linear: Linear, choice: LayerChoice, columns: int) -> Ruling:
        """Whether a layer whose rows have ``columns`` weights can carry the choice."""

    def pruned(self, spec: ModelSpec, pruned: PrunedShape) -> Ruling:
        """A pruned model is a smaller configuration of the same architecture, if that can express it."""
        return pruned_ruling(spec, pruned)


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
