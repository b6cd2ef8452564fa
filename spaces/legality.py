"""What an engine on a device can load: rulings with a reason, and the groups that share a choice."""

from __future__ import annotations

from typing import Literal, Protocol

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.errors import EngineError
from paretune.spaces.model import ModelSpec
from paretune.spaces.schema import Frozen


class Ruling(Frozen):
    """Whether something is legal, why not, and who says so."""

    legal: bool
    reason: str = ""
    source: str = ""

    def __bool__(self) -> bool:
        return self.legal


LEGAL = Ruling(legal=True)


def illegal(reason: str, source: str = "") -> Ruling:
    """A refusal."""
    return Ruling(legal=False, reason=reason, source=source)


def require(verdict: Ruling, what: str, remedy: str) -> None:
    """Turn a refusal into an error.

    Args:
        verdict: of an engine or a tool.
        what: was ruled on.
        remedy: where it was refused.

    Raises:
        EngineError: it was; with the reason and who says so.
    """
    if not verdict:
        source = f" ({verdict.source})" if verdict.source else ""
        raise EngineError(what, f"{verdict.reason}{source}", remedy)


class FusedGroup(Frozen):
    """Layers that an engine fuses, so they share one choice.

    Attributes:
        name: e.g. ``blocks.3.qkv``; the name of the parameter.
        kind: ``linear`` inside a block, ``embedding`` or ``head`` outside (a tied pair is an ``embedding``).
        block: index of the block, ``None`` outside.
        layers: names of the layers.
    """

    name: str
    kind: Literal["linear", "embedding", "head"]
    block: int | None
    layers: tuple[str, ...]


class Legality(Protocol):
    """What one engine on one device generation accepts; handed to the space, which holds nothing illegal."""

    @property
    def engine(self) -> str:
        """Registered name of the engine."""

    @property
    def device(self) -> str:
        """Name of the device."""

    def groups(self, spec: ModelSpec) -> tuple[FusedGroup, ...]:
        """A partition of the layers, in the order of the model."""

    def choice(self, spec: ModelSpec, group: FusedGroup, choice: LayerChoice, pruned: PrunedShape) -> Ruling:
        """Whether every layer of the group can carry ``choice`` in a pruned model of this size."""

    def kv(self, spec: ModelSpec, kv: KVFormat) -> Ruling:
        """Whether the cache can have this format."""

    def pruned(self, spec: ModelSpec, pruned: PrunedShape) -> Ruling:
        """Whether a model of this size can be loaded."""
