"""What OpenVINO computes rightly from a graph: fewer groups than it takes without a word.

Its CPU plugin cuts rows into stretches for its products. Where several groups make a row and a stretch does not end
with one, weights get the scale of a neighbour, and no error tells. Source: 2026.4 as tried on x86 with AVX-512, 4 and
8 bits, rows of 48 to 18,944 weights. Wrong: groups of 48 (4 bits) in every row, of 96, 224, 768 and 1536 in some.
Right in all rows: groups of a power of two, and one group a row, whatever its length.
"""

from __future__ import annotations

from paretune.engines.graphs.legality import GraphLegality
from paretune.spaces.choice import LayerChoice
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import Linear, ModelSpec

_PLUGIN = "OpenVINO's CPU plugin 2026.4, as tried"


class OpenVinoLegality(GraphLegality):
    """As of every graph, but for groups whose scales the plugin mixes up."""

    def layer(self, spec: ModelSpec, linear: Linear, choice: LayerChoice, columns: int) -> Ruling:
        """See :class:`paretune.engines.group_ruling.LayerRules`."""
        verdict = super().layer(spec, linear, choice, columns)
        shared = choice.weight.group_size
        if not verdict or choice.weight.dense or shared is None or shared & (shared - 1) == 0:
            return verdict
        if columns != shared:
            return illegal(f"several groups of {shared}, no power of two, mix up scales", _PLUGIN)
        return LEGAL
