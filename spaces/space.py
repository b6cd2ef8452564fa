"""The search space: one categorical a fused group, and a few for the model as a whole.

A point is a tuple of choice indices, one a parameter, in the order of :attr:`SearchSpace.parameters`. Only what the
engine can load is in the space, so every point decodes to a legal configuration, or the space says why a
pruned size and a choice do not go together (:meth:`SearchSpace.ruling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, FormatError, SpaceError
from paretune.spaces.groups import whole_blocks
from paretune.spaces.legality import LEGAL, Legality, Ruling
from paretune.spaces.methods import closure_ruling
from paretune.spaces.model import ModelSpec
from paretune.spaces.parameters import Parameter, ParameterBuilder, ParameterKind
from paretune.spaces.patterns import Restrictions
from paretune.spaces.pruned_sizes import PRUNED_KINDS
from paretune.spaces.size import layer_bytes

__all__ = ["Parameter", "ParameterKind", "Point", "SearchSpace"]

Point = tuple[int, ...]
_REMEMBERED = 1024
"""Decoded points kept at hand: a candidate is decoded when it is proposed, named, costed and told."""


class SearchSpace:
    """All legal configurations of a model for an engine on a device.

    Args:
        spec: the model.
        legality: of the engine on the device.
        restrictions: what the user allows.
        block_order: block indices, least important first: which blocks a smaller pruned model loses.

    Attributes:
        groups: the engine's partition of the layers; a block that a method may scale is one group.
        parameters: one categorical a group, then ``kv`` and the three of the pruned size; hidden channels where
            they are offered.
        refused: what is not in the space, and why.

    Raises:
        SpaceError: a group is left without a choice, a pattern matches nothing, a pruned size that the user
            names cannot be had, or ``block_order`` is no order of the blocks.
    """

    def __init__(
        self,
        spec: ModelSpec,
        legality: Legality,
        restrictions: Restrictions | None = None,
        block_order: Sequence[int] | None = None,
    ) -> None:
        self.spec = spec
        self.legality = legality
        self.restrictions = restrictions or Restrictions()
        engine_groups = legality.groups(spec)
        self.restrictions.check(engine_groups)
        ruled = whole_blocks(engine_groups, self.restrictions)
        self.groups = tuple(group for group, _ in ruled)
        self.block_order = tuple(range(spec.blocks)[::-1] if block_order is None else block_order)
        if sorted(self.block_order) != list(range(spec.blocks)):
            raise SpaceError(
                f"block order {self.block_order}",
                f"must name each of {spec.blocks} blocks once",
                "Use the order that the bank gives",
            )
        builder = ParameterBuilder(spec, legality, self.restrictions, self.kept_blocks)
        self.parameters: tuple[Parameter, ...] = (
            *(builder.layer(group, rule) for group, rule in ruled),
            builder.cache(),
            *builder.pruned_sizes(),
        )
        self.refused = builder.refused
        self._decoded: dict[tuple[int, ...], CompressionConfig] = {}

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each parameter."""
        return tuple(len(parameter.choices) for parameter in self.parameters)

    @cached_property
    def layer_parameters(self) -> tuple[int, ...]:
        """Indices of the parameters that choose for a group."""
        return tuple(i for i, parameter in enumerate(self.parameters) if parameter.kind == "layer")

    def index(self, name: str) -> int:
        """Position of the parameter called ``name``."""
        for i, parameter in enumerate(self.parameters):
            if parameter.name == name:
                return i
        raise SpaceError(
            f"parameter {name!r}",
            "is not part of the space",
            f"Parameters: {', '.join(g.name for g in self.parameters)}",
        )

    def choice_bytes(self, parameter: Parameter, pruned: PrunedShape = WHOLE) -> tuple[int | None, ...]:
        """Stored bytes of a group (all its layers, containers included) for each choice of its parameter.

        ``None`` where the pruned model's shapes refuse the format.
        """
        if parameter.group is None:
            raise SpaceError(
                f"parameter {parameter.name}", "chooses for no group", "Ask for a parameter of kind layer"
            )
        layers = [self.spec.linear(name) for name in parameter.group.layers]
        found: list[int | None] = []
        for choice in parameter.choices:
            if isinstance(choice, LayerChoice):
                if not closure_ruling(choice, pruned):
                    found.append(None)
                    continue
                config = CompressionConfig(layers={layer.name: choice for layer in layers}, pruned=pruned)
                try:
                    found.append(sum(layer_bytes(self.spec, layer, config).total for layer in layers))
                except FormatError:
                    found.append(None)
        return tuple(found)

    # -- points and configurations --------------------------------------------------------------------------

    def decode(self, point: Sequence[int]) -> CompressionConfig:
        """The configuration of a point; groups of blocks that the pruned model lacks are left out."""
        key = tuple(point)
        if key not in self._decoded:
            if len(self._decoded) >= _REMEMBERED:
                self._decoded.clear()
            self._decoded[key] = self._decode(key)
        return self._decoded[key]

    def _decode(self, point: Point) -> CompressionConfig:
        self._check_point(point)
        pruned = self.pruned(point)
        layers: dict[str, LayerChoice] = {}
        kv = KVFormat()
        for parameter, index in zip(self.parameters, point, strict=True):
            choice = parameter.choices[index]
            if parameter.group is not None and isinstance(choice, LayerChoice):
                if pruned.keeps_block(parameter.group.block):
                    layers.update(dict.fromkeys(parameter.group.layers, choice))
            elif isinstance(choice, KVFormat):
                kv = choice
        return CompressionConfig(layers=layers, kv=kv, pruned=pruned)

    def encode(self, config: CompressionConfig) -> Point:
        """The point of a configuration of this space; groups of cut blocks take their widest choice.

        Raises:
            ConfigurationError: the configuration is not in the space.
        """
        point = tuple(self._encode_parameter(parameter, config) for parameter in self.parameters)
        if self.pruned(point) != config.pruned:
            raise ConfigurationError(
                f"pruned model {config.pruned.name} of blocks {config.pruned.blocks}",
                f"the space keeps {self.pruned(point).blocks}",
                "Use a space with the block order that the pruned model was cut by",
            )
        known = {layer for group in self.groups for layer in group.layers}
        for layer in config.layers:
            if layer not in known:
                raise ConfigurationError(
                    f"layer {layer!r}", "belongs to no group", "`paretune inspect` lists them"
                )
        return point

    def pruned(self, point: Sequence[int]) -> PrunedShape:
        """The pruned size of a point."""
        counts: dict[str, int | None] = {}
        for parameter, index in zip(self.parameters, point, strict=True):
            if parameter.kind in PRUNED_KINDS:
                value = parameter.choices[index]
                counts[parameter.kind] = value if isinstance(value, int) else None
        blocks = counts.get("blocks")
        if all(value is None for value in counts.values()):
            return WHOLE
        return PrunedShape(
            blocks=None if blocks is None else self.kept_blocks(blocks),
            kv_heads=counts.get("kv_heads"),
            ffn_channels=counts.get("ffn_channels"),
            hidden=counts.get("hidden"),
        )

    def kept_blocks(self, count: int) -> tuple[int, ...]:
        """The ``count`` most important blocks, ascending."""
        return tuple(sorted(self.block_order[self.spec.blocks - count :]))

    def ruling(self, point: Sequence[int]) -> Ruling:
        """Whether the whole candidate is legal (a pruned model's shapes may refuse a group size)."""
        pruned = self.pruned(point)
        if pruned.whole:
            return LEGAL
        verdict = self.legality.pruned(self.spec, pruned)
        if not verdict:
            return verdict
        for i in self.layer_parameters:
            parameter, choice = self.parameters[i], self.parameters[i].choices[point[i]]
            if parameter.group is None or not isinstance(choice, LayerChoice):
                continue
            if pruned.keeps_block(parameter.group.block):
                verdict = closure_ruling(choice, pruned)
                if verdict:
                    verdict = self.legality.choice(self.spec, parameter.group, choice, pruned)
                if not verdict:
                    return verdict
        return LEGAL

    # -- named points ---------------------------------------------------------------------------------------

    def origin(self) -> Point:
        """The point that marginals and uniform configurations depart from: the widest choice of every parameter.

        It is the dense model where the space holds that; where 16 bits are not allowed it is not.
        """
        return tuple(parameter.widest() for parameter in self.parameters)

    def uniform(self, bits: int, kind: str, embedding_bits: int = 16, kv_bits: int = 16) -> Point | None:
        """Every group inside the blocks at one width; ``None`` if some group does not offer it.

        Args:
            bits: of the weights.
            kind: method, or :attr:`LayerChoice.kind` of a named format.
            embedding_bits: of embedding and head, by the same method.
            kv_bits: of the cache.
        """
        point = list(self.origin())
        cache = [
            kv_bits == c.num_bits
            for c in self.parameters[self.index("kv")].choices
            if isinstance(c, KVFormat)
        ]
        for i, parameter in enumerate(self.parameters):
            if parameter.group is not None:
                wanted = parameter.find(bits if parameter.group.kind == "linear" else embedding_bits, kind)
            elif parameter.kind == "kv":
                wanted = cache.index(True) if any(cache) else None
            else:
                continue
            if wanted is None:
                return None
            point[i] = wanted
        return tuple(point)

    def random(self, rng: np.random.Generator) -> Point:
        """A legal point, uniform over the parameters."""
        for _ in range(1000):
            point = tuple(int(rng.integers(size)) for size in self.sizes)
            if self.ruling(point):
                return point
        raise SpaceError(
            "1000 random candidates", "none was legal", "Allow fewer pruned sizes or other group sizes"
        )

    # -- details ---------------------------------------------------------------------------------------------

    def _check_point(self, point: Sequence[int]) -> None:
        if len(point) != len(self.parameters) or any(
            not 0 <= g < n for g, n in zip(point, self.sizes, strict=True)
        ):
            raise ConfigurationError(
                f"point of {len(point)} parameters",
                f"must hold one index a parameter, below {self.sizes}",
                "Make points with encode, random or uniform",
            )

    def _encode_parameter(self, parameter: Parameter, config: CompressionConfig) -> int:
        wanted: LayerChoice | KVFormat | int | None
        if parameter.group is not None:
            if not config.keeps_block(parameter.group.block):
                return parameter.widest()
            wanted = config.choice(parameter.group.layers[0])
            choices = [config.choice(layer) for layer in parameter.group.layers]
            if any(choice is not wanted and choice != wanted for choice in choices):
                raise ConfigurationError(
                    f"group {parameter.name}", "its layers must share a choice", "Choose for the group"
                )
        elif parameter.kind == "kv":
            wanted = config.kv
        else:
            kept = getattr(config.pruned, parameter.kind)
            wanted = len(kept) if isinstance(kept, tuple) else kept
        position = parameter.position(wanted)
        if position is None:
            shown = getattr(wanted, "name", wanted)
            raise ConfigurationError(
                f"{parameter.name} = {shown}", "is not in the space", "`paretune inspect` lists choices"
            )
        return position
