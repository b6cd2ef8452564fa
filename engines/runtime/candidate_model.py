"""A copy of the candidate's module graph that shares its tensors, with kernels in place of linears.

The copy stays what it is when the assembler goes on to another candidate: assemblers swap the data of
parameters and never write into it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from paretune.engines.kernels import LayerWeight, find_kernel
from paretune.engines.runtime.modules import EightBitEmbedding, KernelExperts, KernelLinear
from paretune.engines.selection import Selection, look_up_kernel
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.model import Linear, ModelSpec

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler


def candidate_model(assembler: Assembler, config: CompressionConfig, selections: dict[str, Selection]) -> Any:
    """The candidate with kernels where layers have one; its cache is left to the runtime."""
    model = _shared_copy(assembler.apply(config.replaced(kv=KVFormat())))
    builder = _Builder(assembler, config, selections, model)
    for linear in assembler.spec.linears:
        if config.keeps_block(linear.block):
            builder.replace(linear)
    return model


def kept_name(spec: ModelSpec, pruned: PrunedShape, name: str) -> str:
    """The name of a module or tensor in the pruned model: blocks are counted anew."""
    prefix = f"{spec.block_path}."
    if pruned.blocks is None or not name.startswith(prefix):
        return name
    block, _, rest = name.removeprefix(prefix).partition(".")
    return f"{prefix}{pruned.blocks.index(int(block))}.{rest}"


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
