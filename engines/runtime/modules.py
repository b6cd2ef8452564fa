"""Modules that take the place of a model's own and run the engine's kernels."""

from __future__ import annotations

from typing import Any

import torch

from paretune.engines.kernels import LayerWeight, LinearKernel, Operands
from paretune.engines.kernels.int8_weight_only import Int8WeightOnlyKernel


class KernelLinear(torch.nn.Module):
    """A linear through a kernel.

    Args:
        kernel: that multiplies.
        weight: to pack for it.
        bias: ``(n,)`` or ``None``.
    """

    def __init__(self, kernel: LinearKernel, weight: LayerWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.kernel = kernel
        self.operands: Operands = kernel.pack(weight)
        self.bias = bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``(..., k)`` to ``(..., n)``."""
        product = self.kernel.run(inputs.reshape(-1, inputs.shape[-1]), self.operands)
        if self.bias is not None:
            product += self.bias
        return product.view(*inputs.shape[:-1], -1)


class EightBitEmbedding(torch.nn.Module):
    """Rows dequantized when they are looked up; shares its operands with a tied head.

    Args:
        operands: of :class:`paretune.engines.kernels.int8_weight_only.Int8WeightOnlyKernel`.
        factor: that the model multiplies embeddings by (Gemma), or ``None``.
        dtype: of the result.
    """

    def __init__(self, operands: Operands, factor: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.operands = operands
        self.factor = factor
        self.dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 ``(...)`` to ``(..., k)``."""
        rows = Int8WeightOnlyKernel.rows(ids, self.operands).to(self.dtype)
        return rows if self.factor is None else rows * self.factor.to(rows.dtype)


class KernelExperts(torch.nn.Module):
    """All experts of a block, each through kernels; the router's choice comes from outside.

    Args:
        gate_up, down: one linear an expert.
        activation: between them, from the module that is replaced.
    """

    def __init__(self, gate_up: list[KernelLinear], down: list[KernelLinear], activation: Any) -> None:
        super().__init__()
        self.gate_up = torch.nn.ModuleList(gate_up)
        self.down = torch.nn.ModuleList(down)
        self.activation = activation

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """``(tokens, hidden)`` and the experts of each token with their weights, ``(tokens, active)``."""
        result = torch.zeros_like(hidden_states)
        for expert in torch.unique(top_k_index).tolist():
            tokens, places = torch.where(top_k_index == expert)
            gate, up = self.gate_up[expert](hidden_states[tokens]).chunk(2, dim=-1)
            found = self.down[expert](self.activation(gate) * up)
            found = found * top_k_weights[tokens, places, None]
            result.index_add_(0, tokens, found.to(result.dtype))
        return result
