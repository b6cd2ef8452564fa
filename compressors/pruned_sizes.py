"""Which heads and channels a smaller pruned model keeps, and what that takes from the tensors of the model.

How many are kept is one number for the model; which ones is decided block by block by the bank's statistics
(for experts, expert by expert), but for hidden channels, which are the same in every tensor. Kept indices are
ascending, so that cutting nothing changes nothing.
"""

from __future__ import annotations

from typing import Protocol

import torch

from paretune.compressors.statistics import Part
from paretune.spaces.configuration import WHOLE, PrunedShape
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import Axis, FixedTensor, Linear, ModelSpec
from paretune.spaces.pruned_sizes import size_refusal

_SOURCE = "paretune.compressors.pruned_sizes"


class Importances(Protocol):
    """Scores of heads and channels: :class:`paretune.compressors.statistics.Statistics`."""

    def importance(self, part: Part, block: int | None = None) -> torch.Tensor:
        """Scores of the ``heads`` or ``channels`` of a block, or of the ``width``; larger is more important."""


def ruling(spec: ModelSpec, pruned: PrunedShape) -> Ruling:
    """Whether a model of this size can be cut out of the dense one."""
    for cut in spec.uncuttable:
        if getattr(pruned, cut.kind) is not None:
            return illegal(cut.reason, _SOURCE)
    if pruned.blocks is not None and pruned.blocks[-1] >= spec.blocks:
        return illegal(f"block {pruned.blocks[-1]} does not exist, the model has {spec.blocks}", _SOURCE)
    for count, full, what in (
        (pruned.kv_heads, spec.kv_heads, "key-value heads"),
        (pruned.ffn_channels, spec.ffn_size, "FFN channels"),
        (pruned.hidden, spec.hidden_size, "hidden channels"),
    ):
        if count is not None and count > full:
            return illegal(f"{count} {what} cannot be kept of {full}", _SOURCE)
    refusal = size_refusal(spec, pruned)
    return LEGAL if refusal is None else illegal(refusal, _SOURCE)


def touched(linear: Linear | FixedTensor, pruned: PrunedShape) -> PrunedShape:
    """The part of a pruned model that changes this tensor: what its entries in the bank are keyed by.

    Kept blocks change no tensor; heads and channels change those whose axes count them.
    """
    if isinstance(linear, Linear):
        axes: tuple[Axis, ...] = (linear.out_axis, linear.in_axis)
    else:
        axes = (linear.axis, linear.inner_axis)
    heads = pruned.kv_heads if any(axis in ("heads", "kv_heads", "qkv") for axis in axes) else None
    channels = pruned.ffn_channels if any(axis in ("ffn", "ffn_pair") for axis in axes) else None
    hidden = pruned.hidden if "hidden" in axes else None
    if heads is None and channels is None and hidden is None:
        return WHOLE
    return PrunedShape(kv_heads=heads, ffn_channels=channels, hidden=hidden)


def kept_rows(
    spec: ModelSpec, scores: Importances, linear: Linear, pruned: PrunedShape
) -> torch.Tensor | None:
    """Kept output rows: int64 ``(rows,)``, for experts ``(experts, rows)``; ``None`` is all of them."""
    return kept_indices(spec, scores, linear.out_axis, linear.block, pruned)


def kept_columns(
    spec: ModelSpec, scores: Importances, linear: Linear, pruned: PrunedShape
) -> torch.Tensor | None:
    """Kept input columns, likewise."""
    return kept_indices(spec, scores, linear.in_axis, linear.block, pruned)


def kept_indices(
    spec: ModelSpec, scores: Importances, axis: Axis, block: int | None, pruned: PrunedShape
) -> torch.Tensor | None:
    """Kept positions along an axis of a tensor of a block; ``None`` is all of them."""
    count = _kept_count(axis, block, pruned)
    if count is None:
        return None
    if axis == "hidden":
        return _best(scores.importance("width"), count)
    if axis in ("ffn", "ffn_pair"):
        channels = _best(scores.importance("channels", block), count)
        return channels if axis == "ffn" else torch.cat([channels, channels + spec.ffn_size], dim=-1)
    return _head_features(spec, axis, _best(scores.importance("heads", block), count))


def _kept_count(axis: Axis, block: int | None, pruned: PrunedShape) -> int | None:
    """How many of what an axis counts are kept; ``None`` where nothing is cut."""
    if axis == "hidden":
        return pruned.hidden
    if axis == "none" or block is None:
        return None
    return pruned.ffn_channels if axis in ("ffn", "ffn_pair") else pruned.kv_heads


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of the ``count`` largest scores of each row, ascending; of equals the first."""
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


def _head_features(spec: ModelSpec, axis: Axis, heads: torch.Tensor) -> torch.Tensor:
    """Features of the kept key-value heads along an axis; each has its query heads beside it."""
    keys = _spread(heads, spec.head_dim)
    if axis == "kv_heads":
        return keys
    queries = _spread(heads, spec.heads // spec.kv_heads * spec.head_dim)
    if axis == "heads":
        return queries
    after_queries = spec.heads * spec.head_dim
    after_keys = after_queries + spec.kv_heads * spec.head_dim
    return torch.cat([queries, keys + after_queries, keys + after_keys])


def _spread(heads: torch.Tensor, width: int) -> torch.Tensor:
    return (heads[:, None] * width + torch.arange(width)[None, :]).reshape(-1)


def of_expert(kept: torch.Tensor | None, expert: int) -> torch.Tensor | None:
    """The kept positions of one expert; those of all where they do not differ."""
    return kept if kept is None or kept.ndim == 1 else kept[expert]
