"""Makes a model outlier-heavy: a few channels of every block's norms become large, the columns that read them small.

Large language models have such channels by themselves, the same ones in most blocks (Dettmers et al. 2022,
arXiv:2208.07339); small ones do not. A factor that is a power of two changes exponents only, so the model computes
the same bits in any dtype (Gemma's norms, which multiply by one plus the weight, the same up to rounding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.transforms.structure import block_groups, unknown_structure
from paretune.compressors.transforms.transform import Transform, Transformed
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import ModelSpec


@dataclass(frozen=True)
class OutlierChannels(Transform):
    """Multiplies channels of the norms that attention and feed-forward parts read.

    Attributes:
        channels: how many, 1 to 3.
        factor: 30 to 100.
        seed: of the choice of channels, which is the same in all blocks.
    """

    channels: int = 3
    factor: float = 64.0
    seed: int = 0

    name = "outlier-channels"

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= 3 or not 30.0 <= self.factor <= 100.0:
            raise ConfigurationError(
                f"{self.channels} outlier channels x {self.factor:g}",
                "1 to 3 channels are multiplied by 30 to 100, as trained models show them",
                "Use for example 3 channels x 64",
            )

    def refusal(self, model: Any, spec: ModelSpec) -> str | None:
        """Families whose norms are read by something unknown."""
        return unknown_structure(model, spec)

    def chosen(self, hidden_size: int) -> torch.Tensor:
        """Indices of the channels, int64 ``(channels,)``."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(hidden_size, generator=generator)[: self.channels]

    def _apply(self, model: Any, spec: ModelSpec, windows: TokenWindows | None) -> Transformed:
        del windows
        factors = torch.ones(spec.hidden_size, dtype=torch.float64)
        factors[self.chosen(spec.hidden_size)] = self.factor
        strengths = {}
        for block in range(spec.blocks):
            for group in block_groups(model, spec, block):
                group.multiply(factors.to(group.gain.device))
                strengths[group.name] = self.factor
        return Transformed(spec, strengths)
