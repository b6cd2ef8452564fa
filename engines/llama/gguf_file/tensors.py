"""The quantized layers of a candidate in the tensors of llama.cpp's converter, which may order rows in another way.

How it does is read off what it wrote: the dense matrix is there as it was, or with the two halves of every head's
rotated pairs interleaved. Anything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from paretune.compressors.quantizers.ggml_blocks import GgmlWeight
from paretune.engines.llama.gguf_file.names import gguf_names
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.ggml_types import GGML_TYPES
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider

FLOATS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True)
class GgufTensor:
    """One quantized tensor, announced before it is made.

    Attributes:
        type: of ggml, lower case.
        count: of its weights.
        made: its blocks, uint8.
    """

    type: str
    count: int
    made: Callable[[], NDArray[Any]]

    @property
    def number(self) -> int:
        """The type in ggml's enumeration."""
        return GGML_TYPES[self.type].number

    @property
    def num_bytes(self) -> int:
        """Of the stored blocks."""
        found = GGML_TYPES[self.type]
        return self.count // found.block_weights * found.block_bytes


def replaced_tensors(
    spec: ModelSpec, bank: WeightProvider, config: CompressionConfig, reader: Any, architecture: str
) -> dict[str, GgufTensor]:
    """The quantized tensors of a candidate, by name.

    Args:
        spec: of the dense model.
        bank: with the weights.
        config: of the candidate.
        reader: ``gguf.GGUFReader`` of the dense (or pruned) model as it was converted.
        architecture: llama.cpp's name of its family.

    Raises:
        EngineError: a layer has no tensor of its own there, or is stored in another way than any that is known.
    """
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    found: dict[str, GgufTensor] = {}
    for linear in kept_linears(spec, config):
        kind = config.choice(linear.name).weight.ggml
        if not kind:
            continue
        names = gguf_names(spec, config.pruned, linear, architecture, tensors)
        matrices = _matrices(bank, config, linear)
        for piece, name in enumerate(names):
            order = _order(spec, bank, config, linear, tensors[name], (piece, len(names)))
            made = partial(_blocks, matrices, linear, (piece, len(names)), order)
            found[name] = GgufTensor(kind, int(tensors[name].n_elements), made)
    return found


def _matrices(
    bank: WeightProvider, config: CompressionConfig, linear: Linear
) -> Callable[[int], NDArray[Any]]:
    def blocks(expert: int) -> NDArray[Any]:
        made = bank.quantized(linear.name, config.choice(linear.name), config.pruned, expert)
        if not isinstance(made, GgmlWeight):
            raise TypeError(f"{linear.name} has no blocks of ggml")
        return made.blocks.cpu().contiguous().numpy()

    return blocks


def _blocks(
    matrices: Callable[[int], NDArray[Any]],
    linear: Linear,
    piece: tuple[int, int],
    order: NDArray[np.int64] | None,
) -> NDArray[Any]:
    """Blocks of one tensor: of a layer, or of a part of the rows of every expert."""
    number, of = piece
    parts = [np.split(matrices(expert), of)[number] for expert in range(linear.experts)]
    whole = np.stack(parts) if linear.role.startswith("expert") else parts[0]
    return whole if order is None else np.ascontiguousarray(whole[order])


def _order(
    spec: ModelSpec,
    bank: WeightProvider,
    config: CompressionConfig,
    linear: Linear,
    tensor: Any,
    piece: tuple[int, int],
) -> NDArray[np.int64] | None:
    """Which row of ours comes where in the converter's tensor, int64 ``(rows,)``; ``None``: in the same order.

    Raises:
        EngineError: the numbers are not ours in any order that is known.
    """
    dense = bank.tensor(linear.name, pruned=config.pruned).cpu()
    if linear.role.startswith("expert"):
        dense = dense.transpose(1, 2) if linear.transposed else dense
        ours = torch.chunk(dense, piece[1], dim=1)[piece[0]]
    else:
        ours = dense.t() if linear.transposed else dense
    theirs = _numbers(tensor)
    if theirs.shape == ours.shape:
        if torch.equal(theirs, ours.to(theirs.dtype)):
            return None
        rows = len(ours)
        if ours.dim() == 2 and rows % spec.head_dim == 0 and spec.head_dim % 2 == 0:
            order = np.arange(rows).reshape(-1, 2, spec.head_dim // 2).swapaxes(1, 2).reshape(-1)
            if torch.equal(theirs, ours[torch.from_numpy(order)].to(theirs.dtype)):
                return order
    raise EngineError(
        f"layer {linear.name}",
        f"is stored by llama.cpp's converter ({tensor.name}) as other numbers than the model's, in another order",
        "Leave it as it is (a rule with bits=16), or use another engine",
    )


def _numbers(tensor: Any) -> torch.Tensor:
    """A tensor of the converter's in floating point numbers; bf16 lies there as bytes."""
    data = np.asarray(tensor.data)
    shape = tuple(int(size) for size in reversed(tensor.shape))
    kind = tensor.tensor_type.name
    if kind == "BF16":
        return torch.from_numpy(data.copy()).view(torch.bfloat16).view(shape)
    return torch.from_numpy(data.copy()).view(shape)
