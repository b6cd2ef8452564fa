"""The dense weights, slab by slab, from the memory-mapped checkpoint, so that the bank never holds a model.

Where a checkpoint names or shapes a tensor otherwise than ``transformers`` does (experts stored one by one,
tied heads), the tensor of the loaded model is used: it is in memory anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spaces.architectures.headers import read_header, weight_files
from spaces.errors import ModelError
from spaces.model import Linear, ModelSpec


class WeightSource:
    """Dense tensors by their name in ``named_parameters()``.

    Args:
        folder: of the checkpoint; ``None`` takes everything from ``model``.
        model: loaded from it and not yet changed; its tensors are remembered, not copied.
        spec: of both.
    """

    def __init__(self, folder: Path | None, model: Any, spec: ModelSpec) -> None:
        self.spec = spec
        self._loaded: dict[str, torch.Tensor] = {
            name: parameter.data for name, parameter in model.named_parameters()
        }
        self._files = {} if folder is None else _stored(folder, spec)

    @property
    def device(self) -> torch.device:
        """Where the model computes, hence where quantizers do."""
        first: torch.Tensor = next(iter(self._loaded.values()))
        return first.device

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called ``name``, as stored, on :attr:`device`.

        Raises:
            ModelError: neither the checkpoint nor the model has it.
        """
        with _Opened(self, name) as stored:
            found: torch.Tensor = stored[:].to(self.device)
        return found

    def rows(self, linear: Linear, expert: int, start: int, stop: int) -> torch.Tensor:
        """Output rows ``start`` to ``stop`` of one expert's matrix, float32 ``(rows, in_features)``."""
        tied = self.spec.tied and linear.role == "head"
        with _Opened(self, self.spec.embedding.parameter if tied else linear.parameter) as stored:
            found: torch.Tensor
            if linear.transposed:
                found = stored[:, start:stop].t()
            elif linear.role.startswith("expert"):
                found = stored[expert : expert + 1, start:stop][0]
            else:
                found = stored[start:stop]
        return found.to(device=self.device, dtype=torch.float32).contiguous()

    def matrices(self, linear: Linear) -> torch.Tensor:
        """All of a site in float32: ``(experts, out_features, in_features)``."""
        parts = [self.rows(linear, expert, 0, linear.out_features) for expert in range(linear.experts)]
        return torch.stack(parts)

    def stored_in(self, name: str) -> Path | None:
        """The file that holds the tensor as the model has it."""
        return self._files.get(name)

    def loaded(self, name: str) -> torch.Tensor:
        """The tensor of the loaded model."""
        if name not in self._loaded:
            raise ModelError(
                f"tensor {name}", f"is not part of {self.spec.source}", "Use the weights of the same model"
            )
        return self._loaded[name]


class _Opened:
    """A tensor that can be sliced without reading the rest of it."""

    def __init__(self, source: WeightSource, name: str) -> None:
        self._source = source
        self._name = name
        self._stream: Any = None

    def __enter__(self) -> Any:
        from safetensors import safe_open

        file = self._source.stored_in(self._name)
        if file is None:
            return self._source.loaded(self._name)
        self._stream = safe_open(file, framework="pt")
        return self._stream.__enter__().get_slice(self._name)

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.__exit__(*error)


def _stored(folder: Path, spec: ModelSpec) -> dict[str, Path]:
    """File of every tensor that the checkpoint has under the model's name and shape."""
    shapes = spec.parameter_shapes
    return {
        tensor.name: file
        for file in weight_files(folder)
        for tensor in read_header(file)
        if shapes.get(tensor.name) == tensor.shape
    }
