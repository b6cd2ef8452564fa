"""The mixture-of-experts block of transformers 5: a router, and the experts in two 3-D parameters.

``mlp.experts.gate_up_proj`` is ``(experts, 2 * width, hidden)``, ``mlp.experts.down_proj`` is
``(experts, hidden, width)``. An export stores the gate, up and down of every expert as linears of their own.
"""

from __future__ import annotations

from paretune.spaces.architectures.layout import Geometry, Layout


def add_mixture(layout: Layout, geometry: Geometry, block: int) -> None:
    """Router and experts of one block, below ``mlp``."""
    path = f"{layout.block_path}.{block}.mlp"
    experts, hidden, width = geometry.experts, geometry.hidden, geometry.ffn
    layout.tensor(f"{path}.gate.weight", (experts, hidden), block=block, inner_axis="hidden")
    layout.experts(
        f"{path}.experts.gate_up_proj",
        "expert_gate_up",
        (2 * width, hidden),
        block=block,
        axes=("ffn_pair", "none"),
        experts=experts,
        pieces=2,
    )
    layout.experts(
        f"{path}.experts.down_proj",
        "expert_down",
        (hidden, width),
        block=block,
        axes=("none", "ffn"),
        experts=experts,
    )
