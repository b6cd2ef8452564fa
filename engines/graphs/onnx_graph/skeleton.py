"""The candidate's modules without the dense model's weights: what is traced into a graph.

Quantized layers are modules that hold codes; everything else is kept in the model's dtype and made float32 on use,
which the program does once when it loads the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call

from paretune.engines.graphs.onnx_graph.block_codes import block_codes
from paretune.engines.graphs.onnx_graph.modules import BlockEmbedding, BlockLinear, HeldCodes
from paretune.spaces.architectures import pruned_config
from paretune.spaces.choice import UNTOUCHED
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.files import CONFIGURATION, read_object
from paretune.spaces.methods import scaled_blocks
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, kept_name

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider

Past = list[tuple[torch.Tensor, torch.Tensor]]


class GraphModel(torch.nn.Module):
    """One step of a decoder: new tokens and what the cache holds, to logits and what it holds then.

    Args:
        skeleton: with codes where layers are quantized, else without weights.
        tensors: of the other parameters, by name.
        aliases: further names of some of them: a tied head.
    """

    def __init__(self, skeleton: Any, tensors: dict[str, torch.Tensor], aliases: dict[str, str]) -> None:
        super().__init__()
        self.skeleton = skeleton
        self._aliases = aliases
        self._kept = {name: name.replace(".", "/") for name in tensors}
        for name, tensor in tensors.items():
            self.register_buffer(self._kept[name], tensor)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, past: Past
    ) -> tuple[torch.Tensor, list[tuple[Any, Any]]]:
        """Logits ``(batch, tokens, vocabulary)`` and keys and values ``(batch, heads, past + tokens, width)``."""
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": cache,
            "use_cache": True,
        }
        floats = {name: self.get_buffer(path).float() for name, path in self._kept.items()}
        floats |= {alias: floats[name] for alias, name in self._aliases.items()}
        found = functional_call(self.skeleton, floats, (), inputs)
        return found.logits, [(layer.keys, layer.values) for layer in found.past_key_values.layers]


def graph_model(spec: ModelSpec, bank: WeightProvider, config: CompressionConfig, source: Path) -> GraphModel:
    """The candidate, ready to be traced.

    Args:
        spec: of the dense model.
        bank: with the weights; no model is run.
        config: of the candidate.
        source: folder of the dense checkpoint.
    """
    skeleton = _skeleton(spec, config, source)
    builder = _Builder(spec, bank, config, skeleton)
    for linear in kept_linears(spec, config):
        builder.place(linear)
    builder.place_fixed()
    tied = spec.tied and spec.embedding.parameter in builder.tensors
    aliases = {spec.head.parameter: spec.embedding.parameter} if tied else {}
    return GraphModel(skeleton, builder.tensors, aliases)


def _skeleton(spec: ModelSpec, config: CompressionConfig, source: Path) -> Any:
    """Modules of the pruned model without memory for parameters."""
    import transformers
    from accelerate import init_empty_weights

    values = read_object(source / "config.json", CONFIGURATION)
    values = pruned_config(values, spec, config.pruned)
    found = transformers.AutoConfig.for_model(**values)
    with init_empty_weights(include_buffers=False):
        # Products of attention that are written out: fused ones are traced into many more operations.
        model = transformers.AutoModelForCausalLM.from_config(
            found, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        )
    return model.eval().requires_grad_(False)


class _Builder:
    """Puts codes into the skeleton and gathers what stays dense."""

    def __init__(
        self, spec: ModelSpec, bank: WeightProvider, config: CompressionConfig, skeleton: Any
    ) -> None:
        self._spec, self._bank, self._config, self._skeleton = spec, bank, config, skeleton
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        self.tensors: dict[str, torch.Tensor] = {}

    def place(self, linear: Linear) -> None:
        """A layer: its codes, or its weight."""
        choice, pruned = self._config.choice(linear.name), self._config.pruned
        if choice.weight.dense:
            self._keep(linear.parameter, self._bank.tensor(linear.name, choice, pruned))
            return
        found = self._bank.quantized(linear.name, choice, pruned)
        if found is None:
            raise TypeError(f"the bank has no codes of {linear.name} at {choice.name}")
        held = HeldCodes(block_codes(found, choice.weight.num_bits, self._dtype))
        path = kept_name(self._spec, pruned, linear.name)
        module = self._skeleton.get_submodule(path)
        if linear.role != "embedding":
            self._skeleton.set_submodule(path, BlockLinear(held, getattr(module, "bias", None)))
            return
        self._skeleton.set_submodule(path, BlockEmbedding(held, getattr(module, "embed_scale", None)))
        if self._spec.tied:
            head = self._skeleton.get_submodule(self._spec.head.name)
            self._skeleton.set_submodule(self._spec.head.name, BlockLinear(held, getattr(head, "bias", None)))

    def place_fixed(self) -> None:
        """Norms, biases and the like."""
        scaled = scaled_blocks(self._spec, self._config)
        for tensor in self._spec.fixed:
            if self._config.keeps_block(tensor.block):
                choice = UNTOUCHED if tensor.block is None else scaled.get(tensor.block, UNTOUCHED)
                self._keep(tensor.name, self._bank.fixed(tensor.name, self._config.pruned, choice))

    def _keep(self, name: str, value: torch.Tensor) -> None:
        kept = value.to("cpu", self._dtype).contiguous()
        self.tensors[kept_name(self._spec, self._config.pruned, name)] = kept
