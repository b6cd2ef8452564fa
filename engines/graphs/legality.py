"""What ONNX Runtime and OpenVINO compute from a graph: integers of 4 and 8 bits in blocks along a row, a scale each.

Sources: ``ContribOperators.md`` of ONNX Runtime (``MatMulNBits``), the ONNX frontend of OpenVINO, which makes of it the
compressed product that its CPU plugin knows; versions 1.31 and 2026.4 as tried. ONNX Runtime computes 2 bits only where
inputs are rounded too.
"""

from __future__ import annotations

from paretune.engines.checkpoint.legality import row_ruling
from paretune.engines.graphs.onnx_graph.block_codes import BLOCKS, block_size
from paretune.engines.group_ruling import LayerRules
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.formats import WeightFormat
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import Linear, ModelSpec

WIDTHS = (4, 8)
_OPERATOR = "com.microsoft.MatMulNBits"
_EXPORTER = "torch.onnx"


class GraphLegality(LayerRules):
    """Nothing is fused: every product is an operation of its own."""

    def layer(self, spec: ModelSpec, linear: Linear, choice: LayerChoice, columns: int) -> Ruling:
        """See :class:`paretune.engines.group_ruling.LayerRules`."""
        del spec
        if choice.activation is not None:
            return illegal("inputs are not rounded by choice: products are float32", _OPERATOR)
        return _layer(linear, choice, columns)

    def kv(self, spec: ModelSpec, kv: KVFormat) -> Ruling:
        """16 bits only: the graph keeps keys and values in float32."""
        del spec
        if kv.num_bits != 16 or kv.layers:
            return illegal(f"cache {kv.name}: the graph keeps keys and values as they are", self.engine)
        return LEGAL


def model_ruling(spec: ModelSpec) -> Ruling:
    """Whether the model can be a graph at all."""
    if spec.experts:
        return illegal(
            "experts are chosen by what a token says, which a traced graph cannot follow", _EXPORTER
        )
    uneven = spec.why_uneven()
    return LEGAL if uneven is None else illegal(f"every block hands out keys and values: {uneven}", _EXPORTER)


def _layer(linear: Linear, choice: LayerChoice, columns: int) -> Ruling:
    verdict = row_ruling(columns, choice)
    if not verdict:
        return verdict
    weight = choice.weight
    if weight.dense:
        right = weight.num_bits == 16
        return (
            LEGAL if right else illegal("weights stay as the model has them, which is called 16", _EXPORTER)
        )
    if linear.role.startswith("expert"):
        return illegal("experts are not products of their own in a traced graph", _EXPORTER)
    if linear.role == "embedding" and weight.num_bits != 8:
        return illegal(f"an embedding of {weight.num_bits} bits: rows of 8 bits are looked up", _EXPORTER)
    return _integers(weight, columns)


def _integers(weight: WeightFormat, columns: int) -> Ruling:
    if weight.number_type != "int" or weight.num_bits not in WIDTHS:
        return illegal(
            f"{weight.name} is not among integers of {' and '.join(map(str, WIDTHS))} bits", _OPERATOR
        )
    if weight.zero_point == "float":
        return illegal("zero points are integers in the graph", _OPERATOR)
    if weight.actorder != "none" or weight.block_rows != 1:
        return illegal(f"{weight.name}: scales are those of neighbouring weights in one row", _OPERATOR)
    if block_size(columns, weight.group_size) is None:
        group = weight.group_size or columns
        return illegal(f"groups of {group} hold no whole block of {' or '.join(map(str, BLOCKS))}", _OPERATOR)
    return LEGAL
