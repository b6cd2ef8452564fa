"""``taylor``: what the loss changes by, to first order, when a part is left out.

The derivative of the next-token loss by a gate of a part, at one: ``|sum over the part's weights of w * dL/dw|``, taken
window by window and averaged, so that windows that pull in opposite directions do not cancel (Michel et al. 2019,
arXiv:1905.10650, for heads; Molchanov et al. 2019, arXiv:1906.10771, for channels). For a head or an FFN channel the
weights are its columns of the projection behind it, for a hidden channel those of every linear of the blocks and the
head that reads it; for a block the gate is on what it adds to the residual stream. One pass forth and back a window.

The sum over a column's weights is the sum over tokens of input times gradient, so no gradients of weights are kept but
those of experts, whose inner inputs nobody outside sees.
"""

from __future__ import annotations

from typing import Any

import torch

from paretune.compressors.observation import RunningMean
from paretune.compressors.rankings.gradient_probes import GradientProbes
from paretune.compressors.rankings.ranking import Ranking, Scene, channel_layers, head_layers


class Taylor(Ranking):
    """Mean over windows of the first-order change of the loss."""

    name = "taylor"
    most_windows = 64

    def scores(self, scene: Scene) -> dict[str, torch.Tensor]:
        """Of every kind."""
        means: dict[str, RunningMean] = {}
        with (
            torch.inference_mode(mode=False),
            torch.enable_grad(),
            GradientProbes(scene.model, scene.spec) as probes,
        ):
            for ids in scene.windows.ids:
                _backward(scene.model, ids[None].to(scene.model.device))
                for name, score in _window_scores(scene, probes).items():
                    means.setdefault(name, RunningMean()).add(score.abs(), 1)
                probes.forget()
        return {name: mean.mean() for name, mean in means.items()}


def _backward(model: Any, ids: torch.Tensor) -> None:
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].to(torch.float32)
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))


def _window_scores(scene: Scene, probes: GradientProbes) -> dict[str, torch.Tensor]:
    """Signed derivatives by gates, of one window."""
    spec, found = scene.spec, {}
    for linear in head_layers(spec):
        found[f"heads/{linear.block}"] = probes.columns(linear).view(spec.kv_heads, -1).sum(dim=1)
    for linear in channel_layers(spec):
        found[f"channels/{linear.block}"] = probes.columns(linear)
    found["blocks"] = torch.stack([probes.block(block) for block in range(spec.blocks)])
    return found | {"width": probes.hidden()}
