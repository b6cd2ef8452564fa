"""Where the weights of a candidate come from: a bank, or one in which some layers of a configuration are replaced.

What sequential methods and training make belongs to a configuration as a whole, so it has no place among the entries of
a bank, which any candidate may take. An overlay hands it out to the assembler and the export of that configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

import torch

from paretune.compressors.bank import as_parameter
from paretune.compressors.observations import Observations
from paretune.compressors.quantizers import QuantizedWeight
from paretune.compressors.statistics import Statistics
from paretune.spaces.choice import UNTOUCHED, LayerChoice
from paretune.spaces.configuration import WHOLE, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_shape


class WeightProvider(Protocol):
    """What assemblers and exports ask for; see :class:`paretune.compressors.bank.Bank`."""

    spec: ModelSpec
    statistics: Statistics
    observations: Observations
    scale_dtype: torch.dtype

    @property
    def hash(self) -> str:
        """Same hash, same weights."""

    def quantized(
        self, layer: str, choice: LayerChoice, pruned: PrunedShape = WHOLE, expert: int = 0
    ) -> QuantizedWeight | None:
        """Codes, scales and zeros of one expert's matrix; ``None`` for a dense choice."""

    def tensor(
        self,
        layer: str,
        choice: LayerChoice = UNTOUCHED,
        pruned: PrunedShape = WHOLE,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """The weight that a candidate computes with, made in float32."""

    def fixed(self, name: str, pruned: PrunedShape = WHOLE, choice: LayerChoice = UNTOUCHED) -> torch.Tensor:
        """A tensor that is never quantized."""


class Overlay:
    """A provider with other weights at some layers.

    Args:
        bank: what everything else is taken from.
        weights: by layer, output rows first, experts one below the other, in the formats of the configuration.
        made_by: the method, for the hash.

    Raises:
        ConfigurationError: nothing is replaced.
    """

    def __init__(self, bank: WeightProvider, weights: Mapping[str, QuantizedWeight], made_by: str) -> None:
        if not weights:
            raise ConfigurationError("an overlay of no layer", "replaces nothing", "Use the bank itself")
        self.spec, self.statistics, self.scale_dtype = bank.spec, bank.statistics, bank.scale_dtype
        self.observations, self.fixed = bank.observations, bank.fixed
        self._bank = bank
        self._weights = dict(weights)
        self._made_by = made_by

    @property
    def hash(self) -> str:
        """SHA-256 of the bank's hash, the method and the replaced codes and scales."""
        digest = hashlib.sha256(f"{self._bank.hash} {self._made_by}".encode("ascii"))
        for layer, found in sorted(self._weights.items()):
            digest.update(layer.encode())
            for tensor in (found.codes, found.scales):
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def quantized(
        self, layer: str, choice: LayerChoice, pruned: PrunedShape = WHOLE, expert: int = 0
    ) -> QuantizedWeight | None:
        """See :meth:`WeightProvider.quantized`."""
        found = self._weights.get(layer)
        if found is None or choice.weight.dense:
            return self._bank.quantized(layer, choice, pruned, expert)
        rows = len(found.codes) // self.spec.linear(layer).experts
        return found.rows(expert * rows, (expert + 1) * rows)

    def tensor(
        self,
        layer: str,
        choice: LayerChoice = UNTOUCHED,
        pruned: PrunedShape = WHOLE,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """See :meth:`WeightProvider.tensor`."""
        found = self._weights.get(layer)
        if found is None or choice.weight.dense:
            return self._bank.tensor(layer, choice, pruned, dtype)
        linear = self.spec.linear(layer)
        return as_parameter(found.dequantize().to(dtype), linear, kept_shape(self.spec, linear, pruned))
