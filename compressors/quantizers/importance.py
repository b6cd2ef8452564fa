"""How much the error of a weight counts: the mean square of its input channel, the diagonal of the layer's Hessian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from paretune.compressors.statistics import LayerStatistics

_LEAST = 1e-4
"""Channels that never fired count a little, so that every weight has a code near it."""


def channel_importances(statistics: LayerStatistics, device: torch.device) -> torch.Tensor:
    """Of each column over their mean, float32 ``(columns,)``; ones where nothing finite was observed."""
    moments = statistics.second_moment.to(device, torch.float32)
    mean = moments.mean()
    if not bool(torch.isfinite(mean)) or float(mean) <= 0.0:
        return torch.ones_like(moments)
    return (moments / mean).clamp_min(_LEAST)


def importances(weight: torch.Tensor, statistics: LayerStatistics) -> torch.Tensor:
    """The same for every weight, in the weight's shape."""
    return channel_importances(statistics, weight.device).expand_as(weight).contiguous()
