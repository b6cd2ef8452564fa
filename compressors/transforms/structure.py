"""Which matrices read a norm, and which channels pass linearly from one matrix to the next.

Both are places where a channel can be multiplied on one side and divided on the other without changing what the
model computes. Everything here is a view of the loaded model's parameters: changing it changes the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from spaces.errors import ModelError
from spaces.model import Linear, ModelSpec, Role

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
        site: name of its site; ``None`` for a router, which is never quantized.
    """

    weight: torch.Tensor
    site: str | None


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


@dataclass(frozen=True)
class Passage:
    """Channels on their way from the rows of one matrix to the columns of another.

    Nothing but linear (or positively homogeneous) steps lies between: values to the output projection, up to down.

    Attributes:
        name: site of the reading matrix, whose input these channels are.
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


def unknown_structure(model: Any, spec: ModelSpec) -> str | None:
    """Why the norms of ``model`` and their readers are not known; ``None`` if they are."""
    if spec.family not in _NORMS:
        return f"it is not known what reads the norms of the family {spec.family!r}"
    if spec.family == "opt" and not model.config.do_layer_norm_before:
        return "its norms stand behind the residual sum, so the residual stream reads them too"
    if _find(model, f"{spec.block_path}.0.{_NORMS[spec.family][0]}.weight") is None:
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
        sites = [linear for linear in inside if linear.role in roles]
        readers = [Matrix(_rows(model, linear), linear.name) for linear in sites]
        if roles is _FEED_FORWARD:
            readers += _routers(model, spec, block)
        name = f"{path}.{norm}"
        gain = _data(model, f"{name}.weight")
        # The experts are one 3-D parameter: their input is that of the module around it.
        observed = sites[0].name
        if sites[0].role == "expert_gate_up":
            observed = observed.rpartition(".")[0]
        groups.append(NormGroup(name, gain, _find(model, f"{name}.bias"), offset, tuple(readers), observed))
    return tuple(groups)


def value_passage(model: Any, spec: ModelSpec, block: int) -> Passage:
    """Values to the output projection of a block: attention only averages over tokens."""
    sites = {linear.role: linear for linear in spec.block_linears if linear.block == block}
    kv, size = spec.kv_heads, spec.head_dim
    source = sites.get("v") or sites["qkv"]
    writer, bias = _rows(model, source), _find(model, f"{source.name}.bias")
    shift = None if bias is None else _value_rows(bias, spec)
    reader = _split(_rows(model, sites["o"]), 1, (kv, spec.heads // kv, size))
    return Passage(sites["o"].name, _value_rows(writer, spec), shift, reader)


def channel_passage(model: Any, spec: ModelSpec, block: int) -> Passage | str:
    """Up to down of a block, or why its channels do not pass linearly."""
    sites = {linear.role: linear for linear in spec.block_linears if linear.block == block}
    if "expert_down" in sites:
        return "channels of experts are not observed one by one"
    source = sites.get("up") or sites["gate_up"]
    gated = "gate" in sites or source.role == "gate_up"
    if not gated and _activation(model) != "relu":
        return f"{_activation(model)} between up and down is not homogeneous"
    writer, bias = _rows(model, source), _find(model, f"{source.name}.bias")
    if source.role == "gate_up":
        half = source.out_features // 2
        writer, bias = writer[half:], None if bias is None else bias[half:]
    reader = _split(_rows(model, sites["down"]), 1, (1, 1, sites["down"].in_features))
    return Passage(sites["down"].name, writer[None], None if bias is None else bias[None], reader)


def writers(model: Any, spec: ModelSpec, block: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weights ``(..., hidden, in)`` and biases of what a block adds to the residual stream."""
    roles = ("o", "down", "expert_down")
    sites = [x for x in spec.block_linears if x.block == block and x.role in roles]
    return [(_rows(model, linear), _find(model, f"{linear.name}.bias")) for linear in sites]


def refuse(name: str, spec: ModelSpec, reason: str, remedy: str) -> ModelError:
    """The error of a transform that a model's structure does not allow."""
    return ModelError(f"{name} of {spec.source} ({spec.model_type})", reason, remedy)


def _value_rows(tensor: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Rows of the values of a value or fused projection, as ``(kv_heads, head_dim, ...)``."""
    kv, size = spec.kv_heads, spec.head_dim
    if spec.family == "gpt_neox":  # rows are interleaved by head: q, k, v of head 0, then of head 1
        return _split(tensor, 0, (kv, 3, size))[:, 2]
    return _split(tensor[-kv * size :], 0, (kv, size))


def _split(tensor: torch.Tensor, axis: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """A view with ``axis`` split; what is written to it is written to the parameter."""
    return tensor.view(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])


def _routers(model: Any, spec: ModelSpec, block: int) -> list[Matrix]:
    """Fixed 2-D tensors of a block: routers read what the experts read."""
    names = [x.name for x in spec.fixed if x.block == block and len(x.shape) == 2]
    return [Matrix(_data(model, name), None) for name in names]


def _rows(model: Any, linear: Linear) -> torch.Tensor:
    weight = _data(model, linear.parameter)
    return weight.t() if linear.transposed else weight


def _activation(model: Any) -> str:
    config = model.config.get_text_config()
    names = ("hidden_act", "hidden_activation", "activation_function")
    return next(str(getattr(config, name)) for name in names if getattr(config, name, None))


def _data(model: Any, name: str) -> torch.Tensor:
    found: torch.Tensor = model.get_parameter(name).data
    return found


def _find(model: Any, name: str) -> torch.Tensor | None:
    path, _, last = name.rpartition(".")
    found = getattr(model.get_submodule(path), last, None)
    return None if found is None else found.data
