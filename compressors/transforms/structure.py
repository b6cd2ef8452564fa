"""Which matrices read a norm: where a channel can be multiplied on one side and divided on the other.

Everything here is a view of the loaded model's parameters: changing it changes the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from paretune.spaces.errors import ModelError
from paretune.spaces.model import Linear, ModelSpec, Role

_ATTENTION: tuple[Role, ...] = ("q", "k", "v", "qkv")
_FEED_FORWARD: tuple[Role, ...] = ("gate", "up", "gate_up", "expert_gate_up")
_LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
_GEMMA_NORMS = ("input_layernorm", "pre_feedforward_layernorm")
_NORMS: dict[str, tuple[str, str]] = {
    "llama": _LLAMA_NORMS, "mistral": _LLAMA_NORMS, "qwen2": _LLAMA_NORMS, "qwen3": _LLAMA_NORMS,
    "phi3": _LLAMA_NORMS, "mixtral": _LLAMA_NORMS, "qwen3_moe": _LLAMA_NORMS, "gpt_neox": _LLAMA_NORMS,
    "gemma2": _GEMMA_NORMS, "gemma3": _GEMMA_NORMS,
    "gpt2": ("ln_1", "ln_2"), "opt": ("self_attn_layer_norm", "final_layer_norm"),
}  # fmt: skip
"""Norm before attention and norm before the feed-forward part, in a block of each family."""
GEMMA_FAMILIES = ("gemma2", "gemma3")
"""Their norms multiply by one plus the weight, and norms stand behind the blocks' outputs too."""


@dataclass(frozen=True)
class Matrix:
    """A weight with outputs in rows.

    Attributes:
        weight: ``(out, in)``, or ``(experts, out, in)``.
        layer: name of its layer; ``None`` for a router, which is never quantized.
    """

    weight: torch.Tensor
    layer: str | None


@dataclass(frozen=True)
class NormGroup:
    """A norm and everything that reads it.

    Attributes:
        name: module path of the norm.
        gain: the norm's weight ``(hidden,)``.
        shift: the norm's bias, if it has one.
        offset: what the norm adds to ``gain`` before it multiplies: one in Gemma.
        readers: every matrix whose input is the norm's output.
        observed: module path at which that input can be seen.
    """

    name: str
    gain: torch.Tensor
    shift: torch.Tensor | None
    offset: float
    readers: tuple[Matrix, ...]
    observed: str

    @torch.no_grad()
    def multiply(self, factors: torch.Tensor) -> None:
        """Multiply the norm's output by ``factors`` ``(hidden,)`` and divide the readers' columns by them."""
        exact = factors.to(torch.float64)
        self.gain.copy_((self.gain.to(torch.float64) + self.offset) * exact - self.offset)
        if self.shift is not None:
            self.shift.copy_(self.shift.to(torch.float64) * exact)
        for reader in self.readers:
            reader.weight.copy_(reader.weight.to(torch.float64) / exact)


def unknown_structure(model: Any, spec: ModelSpec) -> str | None:
    """Why the norms of ``model`` and their readers are not known; ``None`` if they are."""
    if spec.family not in _NORMS:
        return f"it is not known what reads the norms of the family {spec.family!r}"
    if spec.family == "opt" and not model.config.do_layer_norm_before:
        return "its norms stand behind the residual sum, so the residual stream reads them too"
    if find_tensor(model, f"{spec.block_path}.0.{_NORMS[spec.family][0]}.weight") is None:
        return "its norms have no weights"
    return None


def block_groups(model: Any, spec: ModelSpec, block: int) -> tuple[NormGroup, ...]:
    """The two norms of a block that linears read, attention's first."""
    attention, feed_forward = _NORMS[spec.family]
    offset = 1.0 if spec.family in GEMMA_FAMILIES else 0.0
    path = f"{spec.block_path}.{block}"
    inside = [linear for linear in spec.block_linears if linear.block == block]
    groups = []
    for norm, roles in ((attention, _ATTENTION), (feed_forward, _FEED_FORWARD)):
        layers = [linear for linear in inside if linear.role in roles]
        readers = [Matrix(rows_of(model, linear), linear.name) for linear in layers]
        if roles is _FEED_FORWARD:
            readers += _routers(model, spec, block)
        name = f"{path}.{norm}"
        gain = _data(model, f"{name}.weight")
        # The experts are one 3-D parameter: their input is that of the module around it.
        observed = layers[0].name
        if layers[0].role == "expert_gate_up":
            observed = observed.rpartition(".")[0]
        groups.append(
            NormGroup(name, gain, find_tensor(model, f"{name}.bias"), offset, tuple(readers), observed)
        )
    return tuple(groups)


def writers(model: Any, spec: ModelSpec, block: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weights ``(..., hidden, in)`` and biases of what a block adds to the residual stream."""
    roles = ("o", "down", "expert_down")
    layers = [x for x in spec.block_linears if x.block == block and x.role in roles]
    return [
        (rows_of(model, x), None if x.experts > 1 else find_tensor(model, f"{x.name}.bias")) for x in layers
    ]


def refuse(name: str, spec: ModelSpec, reason: str, remedy: str) -> ModelError:
    """The error of a transform that a model's structure does not allow."""
    return ModelError(f"{name} of {spec.source} ({spec.model_type})", reason, remedy)


def _routers(model: Any, spec: ModelSpec, block: int) -> list[Matrix]:
    """Fixed 2-D tensors of a block: routers read what the experts read."""
    names = [x.name for x in spec.fixed if x.block == block and len(x.shape) == 2]
    return [Matrix(_data(model, name), None) for name in names]


def rows_of(model: Any, linear: Linear) -> torch.Tensor:
    """The weight of a layer with outputs in rows, as a view of the parameter."""
    weight = _data(model, linear.parameter)
    return weight.t() if linear.transposed else weight


def _data(model: Any, name: str) -> torch.Tensor:
    found: torch.Tensor = model.get_parameter(name).data
    return found


def find_tensor(model: Any, name: str) -> torch.Tensor | None:
    """The parameter ``name``; ``None`` where the module has none."""
    path, _, last = name.rpartition(".")
    found = getattr(model.get_submodule(path), last, None)
    return None if found is None else found.data
