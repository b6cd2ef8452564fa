"""``entropy``: the range under which the histogram of the codes says most about that of the weights.

Migacz 2017, "8-bit inference with TensorRT" (GTC): of several ranges the one of least divergence between the
histogram of magnitudes, whose tail falls into the last bin, and the same histogram in as many steps as there are
codes. Needs weights enough to fill a histogram: meant for channels and tensors rather than small groups.
"""

from __future__ import annotations

import torch

from paretune.compressors.quantizers.observed import Observed

_BINS = 256
_SHARES = 24
_LEAST = 0.35
_TINY = 1e-9


class Entropy(Observed):
    """Clips where the divergence of histograms is least; touches nothing but its own layer and needs no data."""

    name = "entropy"

    def kept(self, groups: torch.Tensor, num_bits: int) -> torch.Tensor:
        """The share of the range with the least divergence; 1 for a group of zeros."""
        counts = _histogram(groups)
        steps = 1 << (num_bits - 1)
        ends = torch.linspace(1.0, _LEAST, _SHARES).mul(_BINS).round().to(torch.int64).clamp_min(steps)
        ends = torch.unique_consecutive(ends)
        found = torch.stack([_divergence(counts, int(end), steps) for end in ends])
        kept: torch.Tensor = ends.to(groups.device)[found.argmin(dim=0)].to(torch.float32) / _BINS
        return kept


def _histogram(groups: torch.Tensor) -> torch.Tensor:
    """Counts of magnitudes in equal bins up to the largest, float32 ``(groups, bins)``; zeros are not counted."""
    sizes = groups.abs()
    largest = sizes.amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    places = (sizes / largest * _BINS).ceil_().sub_(1).clamp_(0, _BINS - 1).to(torch.int64)
    counts = torch.zeros(len(groups), _BINS, device=groups.device)
    return counts.scatter_add_(1, places, (sizes > 0).to(torch.float32))


def _divergence(counts: torch.Tensor, end: int, steps: int) -> torch.Tensor:
    """KL of the clipped histogram to itself in ``steps`` steps, ``(groups,)``."""
    clipped = counts[:, :end].clone()
    inside = clipped.clone()
    clipped[:, -1] += counts[:, end:].sum(dim=1)
    place = torch.arange(end, device=counts.device) * steps // end
    sums = torch.zeros(len(counts), steps, device=counts.device).index_add_(1, place, inside)
    used = torch.zeros_like(sums).index_add_(1, place, (inside > 0).to(torch.float32))
    spread = torch.where(inside > 0, (sums / used.clamp_min(1.0))[:, place], torch.zeros_like(inside))
    p = clipped / clipped.sum(dim=1, keepdim=True).clamp_min(1.0)
    q = spread / spread.sum(dim=1, keepdim=True).clamp_min(1.0)
    return (p * ((p + _TINY) / (q + _TINY)).log()).sum(dim=1)
