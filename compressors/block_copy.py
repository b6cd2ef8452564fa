"""The tensors of one block in float32, found by the look-ups of :mod:`paretune.compressors.transforms.structure`.

A bank must not change the model that it describes, nor read it: what the model holds may be a candidate. So the
structure of a block is looked up here, in copies of the dense tensors.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from paretune.compressors.weight_source import WeightSource
from paretune.spaces.model import Linear


class BlockCopy:
    """Stands in for a model.

    Args:
        source: of the dense tensors.
        config: of the model, as ``transformers`` has it.
        block: index.

    Attributes:
        config: of the model.
    """

    def __init__(self, source: WeightSource, config: Any, block: int) -> None:
        self.config = config
        spec = source.spec
        self._tensors: dict[str, torch.Tensor] = {}
        for linear in spec.block_linears:
            if linear.block == block:
                self._tensors[linear.parameter] = _copy(source, linear)
        for fixed in spec.fixed:
            if fixed.block == block:
                self._tensors[fixed.name] = source.tensor(fixed.name).to(torch.float32, copy=True)

    def get_parameter(self, name: str) -> torch.Tensor:
        """The copy itself: what is written to it stays."""
        return self._tensors[name]

    def get_submodule(self, path: str) -> SimpleNamespace:
        """The tensors right below ``path`` as attributes."""
        split = ((name.rpartition("."), tensor) for name, tensor in self._tensors.items())
        return SimpleNamespace(**{last: tensor for (head, _, last), tensor in split if head == path})

    def rows(self, linear: Linear) -> torch.Tensor:
        """The weight of a layer, output rows first."""
        weight = self._tensors[linear.parameter]
        return weight.t() if linear.transposed else weight


def _copy(source: WeightSource, linear: Linear) -> torch.Tensor:
    if linear.experts > 1:  # never scaled, and large: the shape is all that is looked at
        return torch.empty(linear.stored_shape, device="meta")
    return source.tensor(linear.parameter).to(torch.float32, copy=True)
