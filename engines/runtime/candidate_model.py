"""A copy of the candidate's module graph that shares its tensors, with kernels in place of linears.

The copy stays what it is when the assembler goes on to another candidate: assemblers swap the data of
parameters and never write into it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from paretune.engines.kernels import LayerWeight, LinearKernel, Operands, find_kernel
from paretune.engines.kernels.int8_weight_only import Int8WeightOnlyKernel
from paretune.engines.selection import Selection, look_up_kernel
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import Linear
from paretune.spaces.size import kept_name

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler


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


def candidate_model(assembler: Assembler, config: CompressionConfig, selections: dict[str, Selection]) -> Any:
    """The candidate with kernels where layers have one; its cache is left to the runtime."""
    model = _shared_copy(assembler.apply(config.replaced(kv=KVFormat())))
    builder = _Builder(assembler, config, selections, model)
    for linear in assembler.spec.linears:
        if config.keeps_block(linear.block):
            builder.replace(linear)
    return model


def _shared_copy(model: Any) -> Any:
    """New modules and new parameters over the same storage; tied ones stay tied."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = torch.nn.Parameter(parameter.data, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(model, memo)


class _Builder:
    """Replaces modules of ``model`` one layer at a time."""

    def __init__(
        self,
        assembler: Assembler,
        config: CompressionConfig,
        selections: dict[str, Selection],
        model: Any,
    ) -> None:
        self._spec = assembler.spec
        self._bank = assembler.bank
        self._config = config
        self._selections = selections
        self._model = model
        self._tied_operands: dict[str, torch.Tensor] | None = None

    def replace(self, linear: Linear) -> None:
        """Put a kernel in the place of a layer, where its kernel is not the model's own product."""
        if self._selections[linear.name].kernel in ("fp32", "bf16"):
            return
        if linear.role == "embedding":
            if look_up_kernel(self._selections[linear.name]) == "gather-int8":
                self._replace_embedding(linear)
        elif linear.role == "expert_gate_up":
            self._replace_experts(linear)
        elif linear.role != "expert_down":
            self._replace_linear(linear)

    def _layer(self, linear: Linear) -> Linear:
        tied = self._spec.tied and linear.role == "head"
        return self._spec.embedding if tied else linear

    def _weight(self, linear: Linear, expert: int = 0) -> LayerWeight:
        linear = self._layer(linear)
        choice, pruned = self._config.choice(linear.name), self._config.pruned
        if self._selections[linear.name].packed:
            found = self._bank.quantized(linear.name, choice, pruned, expert)
            return LayerWeight(quantized=found)
        dense = self._bank.tensor(linear.name, choice, pruned)
        dense = dense[expert] if linear.role.startswith("expert") else dense
        return LayerWeight(dense=dense.t() if linear.transposed else dense)

    def _linear(self, linear: Linear, expert: int = 0, bias: Any = None) -> KernelLinear:
        kernel = find_kernel(self._selections[linear.name].kernel)
        return KernelLinear(kernel, self._weight(linear, expert), bias)

    def _set(self, path: str, module: torch.nn.Module) -> None:
        self._model.set_submodule(path, module)

    def _replace_linear(self, linear: Linear) -> None:
        path = kept_name(self._spec, self._config.pruned, linear.name)
        found = self._linear(linear, bias=getattr(self._model.get_submodule(path), "bias", None))
        if self._tied_operands is not None and linear.role == "head":
            found.operands = self._tied_operands
        self._set(path, found)

    def _replace_embedding(self, linear: Linear) -> None:
        before = self._model.get_submodule(linear.name)
        operands = find_kernel("int8-weight-only").pack(self._weight(linear))
        factor = getattr(before, "embed_scale", None)
        self._set(linear.name, EightBitEmbedding(operands, factor, before.weight.dtype))
        if self._spec.tied:
            self._tied_operands = operands

    def _replace_experts(self, linear: Linear) -> None:
        inner = linear.name.rpartition(".")[0]
        down = self._spec.linear(f"{inner}.down_proj")
        path = kept_name(self._spec, self._config.pruned, inner)
        activation = self._model.get_submodule(path).act_fn
        both = [[self._linear(x, expert) for expert in range(x.experts)] for x in (linear, down)]
        self._set(path, KernelExperts(both[0], both[1], activation))
