"""LLM.int8: input columns with outliers are multiplied in 16 bits, the rest in int8 (while scoring).

Dettmers et al. 2022 (arXiv:2208.07339): a column of a linear's input that reaches the threshold in any token of the
sequence is an outlier column. Products of the other columns are vector-wise int8: a scale a token for the input, a
scale a row for the weight, each from the remaining columns alone. As everywhere in scoring, what stays in 16 bits is
not rounded a second time: weights come from a 16-bit checkpoint, inputs are left as they are.

This is no transform: which columns are kept is found anew in every input, so no checkpoint holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.patches import Patches
from paretune.compressors.rounding import fake_int8
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import Linear, ModelSpec

THRESHOLD = 6.0
"""Magnitude of an outlier, as in the paper."""


@dataclass
class Kept:
    """Columns of one layer that stayed in 16 bits, over all sequences seen.

    Attributes:
        sequences: how many were seen.
        columns: outlier columns, summed over them.
        most: in one sequence.
    """

    sequences: int = 0
    columns: int = 0
    most: int = 0

    def add(self, columns: int) -> None:
        """Count one sequence."""
        self.sequences += 1
        self.columns += columns
        self.most = max(self.most, columns)


@contextmanager
def decompose(model: Any, spec: ModelSpec, threshold: float = THRESHOLD) -> Iterator[dict[str, Kept]]:
    """Within the context every linear inside the blocks computes as LLM.int8 does.

    Args:
        model: dense; its weights are not changed, and it is put back even after an error.
        spec: of the model.
        threshold: magnitude from which a column is an outlier. At infinity this is plain W8A8, at 0 the dense model.

    Yields:
        What was kept, by layer; it fills while the model runs.

    Raises:
        ConfigurationError: a threshold that is no magnitude, or experts, which are no modules of their own.
    """
    if math.isnan(threshold) or threshold < 0:
        raise ConfigurationError(f"threshold {threshold}", "is a magnitude, 0 or more", "Use 6.0")
    if any(linear.role.startswith("expert") for linear in spec.block_linears):
        raise ConfigurationError(
            f"mixed decomposition of {spec.source} ({spec.model_type})",
            "its experts are one parameter and no linears whose inputs could be taken apart",
            "Use a model without a mixture of experts",
        )
    kept = {linear.name: Kept() for linear in spec.block_linears}
    patches, length = Patches(), _Length()
    handle = model.get_input_embeddings().register_forward_pre_hook(length)
    try:
        for linear in spec.block_linears:
            module = model.get_submodule(linear.name)
            patches.set(module, "forward", _forward(module, linear, threshold, length, kept[linear.name]))
        yield kept
    finally:
        handle.remove()
        patches.undo()


class _Length:
    """Tokens of a sequence, noted at the embedding: OPT flattens its sequences before the feed-forward part."""

    def __init__(self) -> None:
        self.tokens = 1

    def __call__(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self.tokens = inputs[0].shape[-1]


def _forward(
    module: Any, linear: Linear, threshold: float, length: _Length, kept: Kept
) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(values: torch.Tensor) -> torch.Tensor:
        weight = module.weight.t() if linear.transposed else module.weight
        parts = []
        for sequence in values.reshape(-1, length.tokens, values.shape[-1]):
            outliers = outlier_columns(sequence, threshold)
            kept.add(int(outliers.sum()))
            parts.append(decomposed_product(sequence, weight, outliers))
        product = torch.stack(parts).view(*values.shape[:-1], linear.out_features)
        return product if module.bias is None else product + module.bias

    return forward


def outlier_columns(sequence: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which columns of ``(tokens, in)`` reach the threshold, bool ``(in,)``; those with a NaN do."""
    return ~(sequence.abs().amax(dim=0) < threshold)


def decomposed_product(sequence: torch.Tensor, weight: torch.Tensor, outliers: torch.Tensor) -> torch.Tensor:
    """``sequence @ weight.T`` with the columns ``outliers`` exact and the others in vector-wise int8.

    Args:
        sequence: ``(tokens, in)``.
        weight: ``(out, in)``.
        outliers: bool ``(in,)``.

    Returns:
        ``(tokens, out)`` in the dtype of ``sequence``.
    """
    regular = ~outliers
    product = sequence[:, outliers] @ weight[:, outliers].t()
    if not regular.any():
        return product
    inputs = fake_int8(sequence[:, regular], torch.float32)
    return product + inputs @ fake_int8(weight[:, regular], torch.float32).t()
