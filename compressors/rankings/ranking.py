"""The small interface behind which every ranking stands, and what a ranking may look at.

A ranking scores parts that a pruned model may lack, of the dense model, from a calibration text: the larger, the more
important. Scores of one kind are compared within a block (``heads``, ``channels``) or within the model (``blocks``,
``width``), never between kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from paretune.spaces.model import Linear, ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.statistics import Statistics
    from paretune.compressors.windows import TokenWindows

Kind = Literal["heads", "channels", "blocks", "width"]
KINDS: tuple[Kind, ...] = ("heads", "channels", "blocks", "width")
LABELS: dict[Kind, str] = {
    "heads": "key-value heads",
    "channels": "FFN channels",
    "blocks": "blocks",
    "width": "hidden channels",
}


@dataclass(frozen=True)
class Scene:
    """What a ranking may look at.

    Attributes:
        model: the dense model, or a :class:`~paretune.compressors.streamed_model.StreamedModel`.
        spec: of the model.
        windows: text that it is run on.
        statistics: of the calibration text.
    """

    model: Any
    spec: ModelSpec
    windows: TokenWindows
    statistics: Statistics


class Ranking(ABC):
    """Scores heads, channels, blocks or hidden channels.

    Attributes:
        name: in the registry.
        version: of the arithmetic; scores of another version are not used.
        refusals: kinds that it does not score, and why.
        streams: whether a model whose weights stay on disk is enough.
        most_windows: of the text that are read; the first ones.
    """

    name: str
    version: str = "1"
    refusals: Mapping[Kind, str] = {}
    streams: bool = False
    most_windows: int = 1 << 30

    @abstractmethod
    def scores(self, scene: Scene) -> dict[str, torch.Tensor]:
        """Everything that this ranking scores, float32.

        Returns:
            ``heads/BLOCK`` ``(kv_heads,)``, where the architecture tells heads apart; ``channels/BLOCK``
            ``(channels,)`` or ``(experts, channels)``; ``blocks`` ``(blocks,)``; ``width`` ``(hidden channels,)``.
        """


def head_layers(spec: ModelSpec) -> list[Linear]:
    """Output projections whose inputs are told apart by head, in order; none where heads cannot be cut."""
    return [linear for linear in spec.of_role("o") if linear.in_axis == "heads"]


def channel_layers(spec: ModelSpec) -> list[Linear]:
    """Down projections whose inputs are the FFN channels that a pruned model counts, in order."""
    return [linear for linear in spec.of_role("down", "expert_down") if linear.in_axis == "ffn"]
