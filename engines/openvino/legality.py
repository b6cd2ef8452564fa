"""What OpenVINO computes rightly from a graph: fewer groups than it takes without a word.

Its CPU plugin cuts rows into stretches for its products. Where several groups make a row and a stretch does not end
with one, weights get the scale of a neighbour, and no error tells. Source: 2026.4 as tried on x86 with AVX-512, 4 and
8 bits, rows of 48 to 18,944 weights. Wrong: groups of 48 (4 bits) in every row, of 96, 224, 768 and 1536 in some.
Right in all rows: groups of a power of two, and one group a row, whatever its length.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.engines.graphs.legality import GraphLegality
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.legality import LEGAL, FusedGroup, Ruling, illegal
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_shape

_PLUGIN = "OpenVINO's CPU plugin 2026.4, as tried"


@dataclass(frozen=True)
class OpenVinoLegality(GraphLegality):
    """See :class:`paretune.spaces.legality.Legality`."""

    def choice(self, spec: ModelSpec, group: FusedGroup, choice: LayerChoice, pruned: PrunedShape) -> Ruling:
        """As in every graph, but for groups whose scales the plugin mixes up."""
        verdict = super().choice(spec, group, choice, pruned)
        shared = choice.weight.group_size
        if not verdict or choice.weight.dense or shared is None or shared & (shared - 1) == 0:
            return verdict
        for layer in group.layers:
            if kept_shape(spec, spec.linear(layer), pruned)[1] != shared:
                return illegal(f"several groups of {shared}, no power of two, mix up scales", _PLUGIN)
        return LEGAL
