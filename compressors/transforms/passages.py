"""Where channels can be scaled: norms, values before the output projection, up before down.

AWQ and SmoothQuant choose scales in ways of their own; what they scale, and what undoes it before, is the same.
Everything here is a view of the loaded model's parameters: changing it changes the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.transforms.structure import NormGroup, block_groups, find_tensor, rows_of
from paretune.spaces.model import ModelSpec


@dataclass(frozen=True)
class Passage:
    """Channels on their way from the rows of one matrix to the columns of another.

    Nothing but linear (or positively homogeneous) steps lies between: values to the output projection, up to down.

    Attributes:
        name: layer of the reading matrix, whose input these channels are.
        writer: ``(groups, channels, in)``.
        bias: of the writer, ``(groups, channels)``.
        reader: ``(out, groups, repeats, channels)``: each group is read ``repeats`` times (grouped queries).
    """

    name: str
    writer: torch.Tensor
    bias: torch.Tensor | None
    reader: torch.Tensor

    @torch.no_grad()
    def multiply(self, factors: torch.Tensor) -> None:
        """Multiply the channels by ``factors`` ``(groups, channels)`` and divide the columns that read them."""
        exact = factors.to(torch.float64)
        self.writer.copy_(self.writer.to(torch.float64) * exact[..., None])
        if self.bias is not None:
            self.bias.copy_(self.bias.to(torch.float64) * exact)
        self.reader.copy_(self.reader.to(torch.float64) / exact[:, None, :])


@dataclass(frozen=True)
class Place:
    """Somewhere that the channels of an input can be scaled, which is undone before.

    Attributes:
        name: norm or layer.
        observed: module whose input these channels are.
        layers: that read them.
        weights: of these layers, ``(out, in)`` each.
        shape: of the input: groups, repeats, channels; a factor per group and channel.
        multiply: multiplies the input by factors ``(groups, channels)``, divides what reads it.
        norm: that the channels come out of; ``None`` for a passage.
    """

    name: str
    observed: str
    layers: tuple[str, ...]
    weights: tuple[torch.Tensor, ...]
    shape: tuple[int, int, int]
    multiply: Callable[[torch.Tensor], None]
    norm: NormGroup | None = None

    def gathered(self, peaks: torch.Tensor) -> torch.Tensor:
        """Largest of what shares a factor: ``(in,)`` to ``(groups, channels)``."""
        return peaks.view(self.shape).amax(dim=1)

    def spread(self, factors: torch.Tensor) -> torch.Tensor:
        """Factors of columns: ``(groups, channels)`` to ``(in,)``."""
        return factors[:, None, :].expand(self.shape).reshape(-1)


def norm_places(model: Any, spec: ModelSpec, block: int) -> list[Place]:
    """The two norms of a block that linears read."""
    return [_norm_place(group) for group in block_groups(model, spec, block)]


def passage_places(model: Any, spec: ModelSpec, block: int) -> tuple[list[Place], str | None]:
    """Values and FFN channels of a block; why the latter are left, where they are."""
    places, channels = (
        [_passage_place(value_passage(model, spec, block))],
        channel_passage(model, spec, block),
    )
    if isinstance(channels, str):
        return places, channels
    return [*places, _passage_place(channels)], None


def _norm_place(group: NormGroup) -> Place:
    readers = [(x.layer, x.weight) for x in group.readers if x.layer is not None]
    weights = tuple(weight.reshape(-1, weight.shape[-1]) for _, weight in readers)
    layers, shape = tuple(layer for layer, _ in readers), (1, 1, len(group.gain))

    def multiply(factors: torch.Tensor) -> None:
        group.multiply(factors[0])

    return Place(group.name, group.observed, layers, weights, shape, multiply, group)


def _passage_place(passage: Passage) -> Place:
    _, groups, repeats, channels = passage.reader.shape
    weight = passage.reader.reshape(len(passage.reader), -1)
    shape = (groups, repeats, channels)
    return Place(passage.name, passage.name, (passage.name,), (weight,), shape, passage.multiply)


def value_passage(model: Any, spec: ModelSpec, block: int) -> Passage:
    """Values to the output projection of a block: attention only averages over tokens."""
    layers = {linear.role: linear for linear in spec.block_linears if linear.block == block}
    kv, size = spec.kv_heads, spec.head_dim
    source = layers.get("v") or layers["qkv"]
    writer, bias = rows_of(model, source), find_tensor(model, f"{source.name}.bias")
    shift = None if bias is None else _value_rows(bias, spec)
    reader = _split(rows_of(model, layers["o"]), 1, (kv, spec.heads // kv, size))
    return Passage(layers["o"].name, _value_rows(writer, spec), shift, reader)


def channel_passage(model: Any, spec: ModelSpec, block: int) -> Passage | str:
    """Up to down of a block, or why its channels do not pass linearly."""
    layers = {linear.role: linear for linear in spec.block_linears if linear.block == block}
    if "expert_down" in layers:
        return "channels of experts are not observed one by one"
    source = layers.get("up") or layers["gate_up"]
    gated = "gate" in layers or source.role == "gate_up"
    if not gated and _activation(model) != "relu":
        return f"{_activation(model)} between up and down is not homogeneous"
    writer, bias = rows_of(model, source), find_tensor(model, f"{source.name}.bias")
    if source.role == "gate_up":
        half = source.out_features // 2
        writer, bias = writer[half:], None if bias is None else bias[half:]
    reader = _split(rows_of(model, layers["down"]), 1, (1, 1, layers["down"].in_features))
    return Passage(layers["down"].name, writer[None], None if bias is None else bias[None], reader)


def _value_rows(tensor: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Rows of the values of a value or fused projection, as ``(kv_heads, head_dim, ...)``."""
    kv, size = spec.kv_heads, spec.head_dim
    if spec.family == "gpt_neox":  # rows are interleaved by head: q, k, v of head 0, then of head 1
        return _split(tensor, 0, (kv, 3, size))[:, 2]
    return _split(tensor[-kv * size :], 0, (kv, size))


def _split(tensor: torch.Tensor, axis: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """A view with ``axis`` split; what is written to it is written to the parameter."""
    return tensor.view(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])


def _activation(model: Any) -> str:
    config = model.config.get_text_config()
    names = ("hidden_act", "hidden_activation", "activation_function")
    return next(str(getattr(config, name)) for name in names if getattr(config, name, None))
