"""Which stored tensors make up a parameter of the model in ``transformers``.

Most are stored as they are. Mixtures as they are published name the linears of every expert one by one, where
``transformers`` holds them in 3-D parameters; some families rename what surrounds them, and checkpoints of a base model
lack the first part of every name.

Source: ``conversion_mapping.py`` of transformers 5.17, and what its ``save_pretrained`` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.expert_names import expert_modules, plain_name
from paretune.spaces.architectures.headers import StoredTensor, read_header, weight_files
from paretune.spaces.model import Linear, ModelSpec

_RENAMED: dict[str, tuple[tuple[str, str], ...]] = {
    "gpt_neox": (("lm_head.", "embed_out."),),
    "gemma3": (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ),
}
"""Beginnings of names: in ``transformers``, and on disk."""


@dataclass(frozen=True)
class StoredParameter:
    """A parameter in files.

    Attributes:
        pieces: an entry an expert (one where there are none), of the tensors that lie below each other in its matrix.
        stacked: whether the experts are stored alone and the parameter stacks them.
    """

    pieces: tuple[tuple[StoredTensor, ...], ...]
    stacked: bool = False

    def whole(self) -> torch.Tensor:
        """The parameter, in the dtype it is stored in."""
        matrices = [_joined([_read(piece) for piece in expert]) for expert in self.pieces]
        return torch.stack(matrices) if self.stacked else matrices[0]

    def rows(self, expert: int, start: int, stop: int, transposed: bool = False) -> torch.Tensor:
        """Output rows ``start`` to ``stop`` of one expert's matrix; of the parameter itself where there are none.

        Args:
            expert: index.
            start: of the rows.
            stop: of the rows.
            transposed: rows are stored as columns.
        """
        if not self.stacked:
            return _read_rows(self.pieces[0][0], expert, start, stop, transposed)
        parts, first = [], 0
        for piece in self.pieces[expert]:
            low, high = max(start - first, 0), min(stop - first, piece.shape[0])
            if low < high:
                parts.append(_read_rows(piece, 0, low, high, transposed=False))
            first += piece.shape[0]
        return _joined(parts)


def find_stored(folder: Path, spec: ModelSpec) -> dict[str, StoredParameter]:
    """Every tensor of the model that the checkpoint holds in a form known here, by its name."""
    tensors = {tensor.name: tensor for file in weight_files(folder) for tensor in read_header(file)}
    linears = {x.parameter: x for x in spec.linears if x.role.startswith("expert")}
    found = {}
    buffers = {tensor.name: tensor.shape for tensor in spec.fixed if tensor.kind == "buffer"}
    for name, shape in (spec.parameter_shapes | buffers).items():
        stored = next((tensors[x] for x in _names(spec, name) if x in tensors), None)
        if stored is not None and stored.shape == shape:
            found[name] = StoredParameter(((stored,),))
        elif name in linears:
            experts = _experts(spec, linears[name], tensors)
            if experts is not None:
                found[name] = experts
    return found


def _names(spec: ModelSpec, name: str) -> Iterator[str]:
    """What a tensor of the model may be called on disk, likeliest first."""
    for one in (name, plain_name(spec, name)):
        yield one
        yield one.partition(".")[2]  # a base model's checkpoint
    for before, after in _RENAMED.get(spec.family, ()):
        if name.startswith(before):
            yield after + name.removeprefix(before)


def _experts(spec: ModelSpec, linear: Linear, tensors: dict[str, StoredTensor]) -> StoredParameter | None:
    shape = (linear.out_features // linear.pieces, linear.in_features)
    pieces = []
    for expert in range(linear.experts):
        stored = []
        for module in expert_modules(spec, linear, expert):
            known = (tensors[x] for x in _names(spec, f"{module}.weight") if x in tensors)
            piece = next(known, None)
            if piece is None or piece.shape != shape:
                return None
            stored.append(piece)
        pieces.append(tuple(stored))
    return StoredParameter(tuple(pieces), stacked=True)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _read(stored: StoredTensor) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(stored.file, framework="pt") as file:
        found: torch.Tensor = file.get_tensor(stored.name)
    return found


def _read_rows(stored: StoredTensor, expert: int, start: int, stop: int, transposed: bool) -> torch.Tensor:
    """Some rows, without reading the rest."""
    from safetensors import safe_open

    with safe_open(stored.file, framework="pt") as file:
        view: Any = file.get_slice(stored.name)
        found: torch.Tensor
        if len(stored.shape) == 3:
            rows = slice(start, stop)
            part = view[expert : expert + 1, :, rows] if transposed else view[expert : expert + 1, rows]
            found = part[0].t() if transposed else part[0]
        elif transposed:
            found = view[:, start:stop].t()
        else:
            found = view[start:stop]
    return found
