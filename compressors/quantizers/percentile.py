"""``percentile``: the range ends where all but a thousandth of the magnitudes lie (at least one stays outside).

Wu et al. 2020, "Integer quantization for deep learning inference" (arXiv:2004.09602), compare percentiles of 99.9
to 99.9999 per tensor; a group of 128 weights has none of these, so its largest weight alone is let go.
"""

from __future__ import annotations

import torch

from paretune.compressors.quantizers.observed import Observed

_OUTSIDE = 1e-3


class Percentile(Observed):
    """Clips what is rare; touches nothing but its own layer and needs no data."""

    name = "percentile"

    def kept(self, groups: torch.Tensor, num_bits: int) -> torch.Tensor:
        """The magnitude at the percentile over the largest one; 1 where that is nothing."""
        del num_bits
        sizes = groups.abs()
        outside = min(max(1, round(_OUTSIDE * groups.shape[1])), groups.shape[1] - 1)
        largest = sizes.topk(outside + 1, dim=1).values
        share = largest[:, -1] / largest[:, 0]
        return torch.where((largest[:, -1] > 0) & share.isfinite(), share, torch.ones_like(share))
