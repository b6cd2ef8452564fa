"""Rotates the residual stream, so that no channel of any linear's input is an outlier.

QuaRot (Ashkboos et al. 2024, arXiv:2404.00456), as far as it costs nothing at run time: gains of norms are folded
into the linears that read them, the residual stream is multiplied by one randomized Hadamard matrix, and so are the
values of each head. What QuaRot rotates while the model runs (inputs of down projections, queries, keys) is left.

The gain before a tied head can be folded into the head only, so the head becomes a matrix of its own: the model has
as many more parameters as the embedding has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.transforms.hadamard import randomized_hadamard
from paretune.compressors.transforms.passages import value_passage
from paretune.compressors.transforms.structure import (
    GEMMA_FAMILIES,
    block_groups,
    find_tensor,
    rows_of,
    unknown_structure,
    writers,
)
from paretune.compressors.transforms.transform import Transform, Transformed
from paretune.compressors.windows import TokenWindows
from paretune.spaces.model import ModelSpec

_LAYER_NORM_FAMILIES = ("gpt2", "gpt_neox", "opt")
_FINAL_NORM = "model.norm.weight"
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Rotation(Transform):
    """Hadamard rotation of the residual stream and of the values of each head.

    Attributes:
        untie: give a tied head its own matrix; otherwise tied models are refused.
        heads: rotate values too.
        seed: of the signs.
    """

    untie: bool = True
    heads: bool = True
    seed: int = 0

    name = "hadamard"

    def refusal(self, model: Any, spec: ModelSpec) -> str | None:
        """Families whose norms do not commute with a rotation."""
        reason = unknown_structure(model, spec)
        if spec.family in _LAYER_NORM_FAMILIES:
            return "its LayerNorms subtract a mean over channels, which a rotation does not preserve"
        if spec.family in GEMMA_FAMILIES:
            return "norms with gains of their own stand between its blocks' outputs and the residual stream"
        if reason is None and spec.tied and not self.untie:
            return "its head is the embedding, which cannot take up the gain of the last norm"
        if reason is None and spec.embedding.in_features != spec.hidden_size:
            return "its embedding is narrower than its blocks"
        return reason

    @torch.no_grad()
    def _apply(self, model: Any, spec: ModelSpec, windows: TokenWindows | None) -> Transformed:
        del windows
        if spec.tied:
            _untie(model)
        device = rows_of(model, spec.embedding).device
        rotation = randomized_hadamard(spec.hidden_size, self.seed).to(device)
        values = randomized_hadamard(spec.head_dim, self.seed + 1).to(device)
        _fold(rows_of(model, spec.embedding), None, rotation)
        for block in range(spec.blocks):
            for group in block_groups(model, spec, block):
                for reader in group.readers:
                    _fold(reader.weight, group.gain, rotation)
                group.gain.fill_(1.0)
            for weight, bias in writers(model, spec, block):
                _fold(weight.transpose(-1, -2), None, rotation)
                if bias is not None:
                    _fold(bias[None], None, rotation)
            if self.heads:
                _rotate_values(model, spec, block, values)
        final = find_tensor(model, _FINAL_NORM)
        if final is None:  # refused before: every family here has one
            raise RuntimeError(f"{_FINAL_NORM} is missing")
        _fold(rows_of(model, spec.head), final, rotation)
        final.fill_(1.0)
        return Transformed(ModelSpec.model_validate(spec.model_dump() | {"tied": False}))


def _rotate_values(model: Any, spec: ModelSpec, block: int, rotation: torch.Tensor) -> None:
    passage = value_passage(model, spec, block)
    _fold(passage.writer.transpose(-1, -2), None, rotation)
    if passage.bias is not None:
        _fold(passage.bias, None, rotation)
    _fold(passage.reader, None, rotation)


def _fold(weight: torch.Tensor, gain: torch.Tensor | None, rotation: torch.Tensor) -> None:
    """``weight`` becomes ``weight diag(gain) rotation``, in float64, some rows or one expert at a time."""
    if weight.ndim == 3:
        for matrix in weight:
            _fold(matrix, gain, rotation)
        return
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        part = weight[start : start + _ROWS_AT_ONCE]
        exact = part.to(torch.float64)
        if gain is not None:
            exact = exact * gain.to(torch.float64)
        part.copy_(exact @ rotation)


def _untie(model: Any) -> None:
    """Give the head its own copy of the embedding."""
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
