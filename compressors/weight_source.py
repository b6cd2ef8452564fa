"""The dense weights, slab by slab, from the memory-mapped checkpoint, so that the bank never holds a model.

Where a checkpoint stores a tensor in a form that is not known here, the tensor of the loaded model is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paretune.compressors.stored_layout import StoredParameter, find_stored
from paretune.spaces.errors import ModelError
from paretune.spaces.model import Linear, ModelSpec


class WeightSource:
    """Dense tensors by their name in ``named_parameters()``.

    Args:
        folder: of the checkpoint; ``None`` takes everything from ``model``.
        model: loaded from it and not yet changed; its tensors are remembered, not copied. ``None``: there is none.
        spec: of both.
        device: where tensors go, if there is no model.
    """

    def __init__(
        self, folder: Path | None, model: Any, spec: ModelSpec, device: str | torch.device = "cpu"
    ) -> None:
        self.spec = spec
        loaded = () if model is None else (*model.named_parameters(), *model.named_buffers())
        self._loaded: dict[str, torch.Tensor] = {name: tensor.data for name, tensor in loaded}
        self._device = next((tensor.device for tensor in self._loaded.values()), torch.device(device))
        self._files = {} if folder is None else find_stored(folder, spec)

    @property
    def device(self) -> torch.device:
        """Where the model computes, hence where quantizers do."""
        return self._device

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called ``name``, as stored, on :attr:`device`.

        Raises:
            ModelError: neither the checkpoint nor the model has it.
        """
        stored = self._files.get(name)
        found = self.loaded(name) if stored is None else stored.whole()
        return found.to(self.device)

    def rows(self, linear: Linear, expert: int, start: int, stop: int) -> torch.Tensor:
        """Output rows ``start`` to ``stop`` of one expert's matrix, float32 ``(rows, in_features)``."""
        tied = self.spec.tied and linear.role == "head"
        name = self.spec.embedding.parameter if tied else linear.parameter
        stored = self._files.get(name)
        if stored is not None:
            found = stored.rows(expert, start, stop, linear.transposed)
        else:
            matrix = self.loaded(name)[expert] if linear.stacked else self.loaded(name)
            found = matrix[:, start:stop].t() if linear.transposed else matrix[start:stop]
        return found.to(device=self.device, dtype=torch.float32).contiguous()

    def matrices(self, linear: Linear) -> torch.Tensor:
        """All of a layer in float32: ``(experts, out_features, in_features)``."""
        parts = [self.rows(linear, expert, 0, linear.out_features) for expert in range(linear.experts)]
        return torch.stack(parts)

    def stored(self, name: str) -> StoredParameter | None:
        """Where the checkpoint has the tensor, if in a form that is known."""
        return self._files.get(name)

    def loaded(self, name: str) -> torch.Tensor:
        """The tensor of the loaded model."""
        if name not in self._loaded:
            raise ModelError(
                f"tensor {name}", f"is not part of {self.spec.source}", "Use the weights of the same model"
            )
        return self._loaded[name]
