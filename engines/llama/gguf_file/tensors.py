"""The tensors of a candidate as GGUF stores them: blocks of ggml where layers have them, the model's dtype elsewhere.

Norms, biases and routers are float32: llama.cpp computes with nothing else there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from paretune.compressors.quantizers.ggml_blocks import GgmlWeight
from paretune.engines.llama.gguf_file.names import TensorNames
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.ggml_types import FLOAT_TYPES, GGML_TYPES
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_extent, kept_linears, kept_name, kept_shape

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider


_ROTATES_PAIRS = ("llama", "mistral", "mixtral")


def row_order(spec: ModelSpec, parameter: str, rows: int) -> NDArray[np.int64] | None:
    """Which row comes where, int64 ``(rows,)``; ``None`` where the order stays.

    Args:
        spec: of the model.
        parameter: name of the weight or bias.
        rows: of the pruned model's tensor: heads times their width.
    """
    module = parameter.rpartition(".")[0]
    if spec.family not in _ROTATES_PAIRS or not module.endswith((".q_proj", ".k_proj")):
        return None
    return np.arange(rows).reshape(-1, 2, spec.head_dim // 2).swapaxes(1, 2).reshape(-1)


_FLOATS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor, announced before it is made.

    Attributes:
        name: in the file.
        shape: of the numbers, rows before columns.
        type: of ggml, lower case.
    """

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def number(self) -> int:
        """The type in ggml's enumeration."""
        return GGML_TYPES[self.type].number if self.type in GGML_TYPES else FLOAT_TYPES[self.type]

    @property
    def num_bytes(self) -> int:
        """Of the stored numbers."""
        count = int(np.prod(self.shape))
        if self.type in GGML_TYPES:
            found = GGML_TYPES[self.type]
            return count // found.block_weights * found.block_bytes
        return count * (4 if self.type == "f32" else 2)


class GgufTensors:
    """Announces and makes the tensors of a candidate, in the order of the model.

    Args:
        spec: of the dense model.
        bank: with the weights.
        config: of the candidate.
        floats: ggml type of layers that stay as they are; the model's dtype if left out.
    """

    def __init__(
        self, spec: ModelSpec, bank: WeightProvider, config: CompressionConfig, floats: str | None = None
    ) -> None:
        self._spec, self._bank, self._config = spec, bank, config
        self._floats = floats or _FLOATS[spec.dtype]
        blocks = spec.blocks if config.pruned.blocks is None else len(config.pruned.blocks)
        self._names = TensorNames(spec, blocks)

    def announced(self) -> list[GgufTensor]:
        """Every tensor, without its numbers."""
        found: list[GgufTensor] = []
        for linear in kept_linears(self._spec, self._config):
            found += self._layer(linear)
        return found + [self._fixed(tensor) for tensor in self._kept_fixed()]

    def made(self) -> Iterator[NDArray[Any]]:
        """Their numbers, one tensor in memory at a time: blocks as uint8, bf16 as uint16."""
        for linear in kept_linears(self._spec, self._config):
            yield from self._values(linear)
        for tensor in self._kept_fixed():
            value = self._bank.fixed(tensor.name, self._config.pruned).to("cpu", torch.float32)
            yield self._ordered(tensor.name, value.contiguous().numpy())

    # -- announcing -----------------------------------------------------------------------------------

    def _type(self, linear: Linear) -> str:
        return self._config.choice(linear.name).weight.ggml or self._floats

    def _layer(self, linear: Linear) -> list[GgufTensor]:
        rows, columns = kept_shape(self._spec, linear, self._config.pruned)
        if linear.role.startswith("expert"):
            shape = (linear.experts, rows // linear.pieces, columns)
            return [GgufTensor(name, shape, self._type(linear)) for name in self._experts(linear)]
        return [
            GgufTensor(self._names.name(self._kept(linear.parameter)), (rows, columns), self._type(linear))
        ]

    def _experts(self, linear: Linear) -> tuple[str, ...]:
        path = self._kept(linear.name).removeprefix(f"{self._spec.block_path}.")
        return self._names.experts(linear, int(path.partition(".")[0]))

    def _kept_fixed(self) -> list[Any]:
        return [tensor for tensor in self._spec.fixed if self._config.keeps_block(tensor.block)]

    def _fixed(self, tensor: Any) -> GgufTensor:
        axes = (tensor.axis, tensor.inner_axis)
        kept = [
            kept_extent(self._spec, *pair, self._config.pruned)
            for pair in zip(axes, tensor.shape, strict=False)
        ]
        shape = (*kept, *tensor.shape[2:])
        return GgufTensor(self._names.name(self._kept(tensor.name)), shape, "f32")

    def _kept(self, name: str) -> str:
        return kept_name(self._spec, self._config.pruned, name)

    # -- making ---------------------------------------------------------------------------------------

    def _values(self, linear: Linear) -> Iterator[NDArray[Any]]:
        if not linear.role.startswith("expert"):
            yield self._ordered(linear.parameter, self._matrix(linear, 0))
            return
        whole = np.stack([self._matrix(linear, expert) for expert in range(linear.experts)])
        yield from (np.ascontiguousarray(part) for part in np.split(whole, linear.pieces, axis=1))

    def _matrix(self, linear: Linear, expert: int) -> NDArray[Any]:
        """One matrix, output rows first, as it is stored."""
        choice, pruned = self._config.choice(linear.name), self._config.pruned
        found = self._bank.quantized(linear.name, choice, pruned, expert)
        if isinstance(found, GgmlWeight):
            return found.blocks.cpu().contiguous().numpy()
        value = self._bank.tensor(linear.name, choice, pruned).cpu()
        value = value[expert] if linear.role.startswith("expert") else value
        return as_floats(value.t() if linear.transposed else value, self._floats)

    def _ordered(self, parameter: str, value: NDArray[Any]) -> NDArray[Any]:
        order = row_order(self._spec, parameter, len(value))
        return value if order is None else np.ascontiguousarray(value[order])


def as_floats(value: torch.Tensor, name: str) -> NDArray[Any]:
    """Numbers in a ggml float type, bf16 as the uint16 that it consists of."""
    if name == "bf16":
        return value.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
    return value.to({"f16": torch.float16, "f32": torch.float32}[name]).contiguous().numpy()
