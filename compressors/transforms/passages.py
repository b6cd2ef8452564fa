"""Channels that pass linearly from one matrix to the next: values to the output projection, up to down.

Everything here is a view of the loaded model's parameters: changing it changes the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.transforms.structure import find_tensor, rows_of
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
