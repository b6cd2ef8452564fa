"""The scale of each channel that AWQ (Lin et al. 2023, arXiv:2306.00978) searches, on a covariance.

A channel is multiplied in the weights by ``s = x^a`` or ``s = x^a / w^(1 - a)`` and divided in the input, with ``x``
the root mean square of the channel's input and ``w`` the mean size of the weights that read it, each relative to the
largest of its group (both as in llm-compressor's AWQModifier, where ``x`` is the mean magnitude). The ``a`` of least
output error is taken, on a grid of twenty; leaving the place as it is stands on the grid too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from paretune.compressors.quantizers.awq import group_covariances, round_by_output
from paretune.spaces.formats import WeightFormat

STEPS = 20
_FURTHEST = 1e4
"""Channels are not moved by more than this factor, so that no gain overflows half precision."""
_ROWS = 512
"""Of each matrix at most so many, evenly spread, are rounded on the grid: a scale is shared by all of them."""
_STRIDE = 4
"""Of the clipping ranges on the grid; what is chosen is held against no scale with all ranges and rows."""


@dataclass(frozen=True)
class Readers:
    """What reads one input.

    Attributes:
        weights: ``(out, in)`` each, float32.
        covariance: of the input, ``(in, in)``.
        shape: of the input: groups, repeats, channels; a scale a group and channel.
        weight_format: that the weights are rounded to.
        scale_dtype: of its scales.
    """

    weights: tuple[torch.Tensor, ...]
    covariance: torch.Tensor
    shape: tuple[int, int, int]
    weight_format: WeightFormat
    scale_dtype: torch.dtype

    def spread(self, scales: torch.Tensor) -> torch.Tensor:
        """Of columns: ``(groups, channels)`` to ``(in,)``."""
        return scales[:, None, :].expand(self.shape).reshape(-1)

    def error(self, scales: torch.Tensor, rows: int | None = None, stride: int = 1) -> float:
        """Output error ``tr(E C E^T)`` of all weights, rounded under ``scales`` ``(groups, channels)``.

        Args:
            scales: of the channels.
            rows: that are rounded of each weight at most; all if left out.
            stride: see :func:`round_by_output`.
        """
        wide = self.spread(scales)
        covariance = self.covariance / torch.outer(wide, wide)
        size = self.weight_format.group_size or len(wide)
        blocks, total = group_covariances(covariance, size), 0.0
        for weight in self.weights:
            part = _some(weight, rows) * wide
            found = round_by_output(part, blocks, self.weight_format, self.scale_dtype, stride)
            difference = found.dequantize().sub_(part)
            error = float(((difference @ covariance) * difference).sum(dtype=torch.float64))
            total += error * len(weight) / len(part)
        return total


def find_scales(readers: Readers) -> torch.Tensor | None:
    """The scales ``(groups, channels)`` of least output error; ``None`` if the place is best left as it is."""
    ones = torch.ones(readers.shape[0], readers.shape[2], device=readers.covariance.device)
    least, best = readers.error(ones, _ROWS, _STRIDE), None
    for scales in _grid(readers):
        error = readers.error(scales, _ROWS, _STRIDE)
        if error < least:
            least, best = error, scales
    if best is None or readers.error(best) >= readers.error(ones):
        return None
    return best


def _grid(readers: Readers) -> Iterator[torch.Tensor]:
    groups, repeats, channels = readers.shape
    square = readers.covariance.diagonal().view(groups, repeats, channels)
    inputs = square.clamp_min(0.0).mean(dim=1).sqrt()
    weights = _relative_size(readers.weights, readers.weight_format.group_size)
    weights = weights.view(groups, repeats, channels).mean(dim=1)
    dead = (inputs == 0) | (weights == 0)
    if bool(dead.all()):
        return
    for step in range(1, STEPS + 1):
        strength = step / STEPS
        yield _normalised(inputs.pow(strength), dead)
        # With `a` of one weights do not count: that is the plain scale again.
        if step < STEPS:
            yield _normalised(inputs.pow(strength) / weights.pow(1.0 - strength), dead)


def _relative_size(weights: Sequence[torch.Tensor], group_size: int | None) -> torch.Tensor:
    """Mean magnitude of each column, every weight relative to the largest of its group: ``(in,)``."""
    total = torch.zeros(weights[0].shape[1], device=weights[0].device)
    for weight in weights:
        groups = weight.abs().reshape(len(weight), -1, group_size or weight.shape[1])
        largest = groups.amax(dim=2, keepdim=True)
        total += (groups / torch.where(largest > 0, largest, 1.0)).reshape(weight.shape).sum(dim=0)
    return total / sum(len(weight) for weight in weights)


def _normalised(scales: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
    """Divided by the root of largest times smallest; channels that are dead on either side stay."""
    alive = scales[~dead]
    found = scales / (alive.amax() * alive.amin()).sqrt()
    found = torch.where(dead | ~found.isfinite(), torch.ones_like(found), found)
    return found.clamp(1.0 / _FURTHEST, _FURTHEST)


def _some(weight: torch.Tensor, rows: int | None) -> torch.Tensor:
    if rows is None or len(weight) <= rows:
        return weight
    return weight[torch.linspace(0, len(weight) - 1, rows).round().to(torch.int64)]
