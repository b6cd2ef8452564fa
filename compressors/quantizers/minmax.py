"""``minmax``: the range of the weights themselves; nothing is clipped ("absmax", and "zero-point" where asymmetric)."""

from __future__ import annotations

import torch

from paretune.compressors.quantizers.observed import Observed


class MinMax(Observed):
    """What the min-max observer of compressed-tensors gives, bit for bit."""

    name = "minmax"

    def kept(self, groups: torch.Tensor, num_bits: int) -> torch.Tensor:
        """Everything."""
        del num_bits
        return torch.ones(len(groups), device=groups.device)
