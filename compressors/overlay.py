"""A bank in which some layers of one configuration are replaced: by what sequential methods and training make.

Such weights belong to a configuration as a whole, so they have no place among the entries, which any candidate may
take. A view on the bank hands them out to the assembler and the export of that configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from paretune.compressors.bank import Bank, as_parameter
from paretune.compressors.quantizers import QuantizedWeight
from paretune.spaces.choice import UNTOUCHED, LayerChoice
from paretune.spaces.configuration import WHOLE, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.size import kept_shape


class Overlay(Bank):
    """The bank with other weights at some layers.

    Args:
        bank: what everything else is taken from.
        weights: by layer, output rows first, experts one below the other, in the formats of the configuration.
        made_by: the method, for the hash.

    Raises:
        ConfigurationError: nothing is replaced.
    """

    def __init__(self, bank: Bank, weights: Mapping[str, QuantizedWeight], made_by: str) -> None:
        if not weights:
            raise ConfigurationError("an overlay of no layer", "replaces nothing", "Use the bank itself")
        self.__dict__.update(bank.__dict__)
        self._weights = dict(weights)
        self._made_by = made_by

    @property
    def hash(self) -> str:
        """SHA-256 of the bank's hash, the method and the replaced codes and scales."""
        digest = hashlib.sha256(f"{super().hash} {self._made_by}".encode("ascii"))
        for layer, found in sorted(self._weights.items()):
            digest.update(layer.encode())
            for tensor in (found.codes, found.scales):
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def quantized(
        self, layer: str, choice: LayerChoice, pruned: PrunedShape = WHOLE, expert: int = 0
    ) -> QuantizedWeight | None:
        """See :meth:`Bank.quantized`."""
        found = self._weights.get(layer)
        if found is None or choice.weight.dense:
            return super().quantized(layer, choice, pruned, expert)
        rows = len(found.codes) // self.spec.linear(layer).experts
        return found.rows(expert * rows, (expert + 1) * rows)

    def tensor(
        self, layer: str, choice: LayerChoice = UNTOUCHED, pruned: PrunedShape = WHOLE
    ) -> torch.Tensor:
        """See :meth:`Bank.tensor`."""
        found = self._weights.get(layer)
        if found is None or choice.weight.dense:
            return super().tensor(layer, choice, pruned)
        linear = self.spec.linear(layer)
        return as_parameter(found.dequantize(), linear, kept_shape(self.spec, linear, pruned))
