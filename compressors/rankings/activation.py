"""``activation``: how much passes through a part, from the statistics that every bank has.

Blocks by block influence (ShortGPT, arXiv:2403.03853), heads by what they add to the residual stream, FFN channels by
mean magnitude times the norm of their column; see :mod:`paretune.compressors.statistics`. Hidden channels by their
root mean square behind every norm, summed over the norms that a linear reads (Minitron, Muralidharan et al. 2024,
arXiv:2407.14679, sums the outputs of all norms; means of squares are what the statistics keep). Needs no pass.
"""

from __future__ import annotations

import torch

from paretune.compressors.rankings.ranking import Ranking, Scene
from paretune.spaces.model import ModelSpec

_FIRST_READERS = ("q", "qkv", "gate", "gate_up", "expert_gate_up", "head")
_PARTS = ("heads/", "channels/")


class Activation(Ranking):
    """Of the calibration text, from what the bank has gathered."""

    name = "activation"
    streams = True

    def scores(self, scene: Scene) -> dict[str, torch.Tensor]:
        """The statistics' own importances, and the hidden channels from the moments of their readers."""
        tensors = scene.statistics.tensors
        found = {name: t for name, t in tensors.items() if name.startswith(_PARTS) or name == "blocks"}
        return found | {"width": _width(scene.spec, tensors)}


def _width(spec: ModelSpec, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of root mean squares behind every norm, ``(hidden channels,)``."""
    total = torch.zeros(spec.hidden_size)
    for name in readers(spec):
        moment = tensors.get(f"moment/{name}")
        if moment is not None and moment.shape[-1] == spec.hidden_size:
            # Experts see their own tokens; the layer saw them all.
            total += (moment if moment.ndim == 1 else moment.mean(dim=0)).sqrt()
    return total


def readers(spec: ModelSpec) -> list[str]:
    """One layer of those that read the same norm; where nothing gates, the up projection stands for its norm."""
    gated = {x.block for x in spec.of_role("gate", "gate_up", "expert_gate_up")}
    wanted = [x for x in spec.linears if x.role in _FIRST_READERS]
    wanted += [x for x in spec.of_role("up") if x.block not in gated]
    return [linear.name for linear in wanted]
