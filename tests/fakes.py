"""Small stand-ins for tests: a model specification without a model, an engine that accepts everything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from paretune.spaces.architectures import read_model
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.groups import fused_groups, single_groups
from paretune.spaces.legality import LEGAL, FusedGroup, Ruling, illegal
from paretune.spaces.model import AttentionCache, Axis, Block, FixedTensor, Linear, ModelSpec
from paretune.spaces.size import kept_shape


def tiny_spec(
    *,
    blocks: int = 3,
    hidden: int = 128,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    ffn: int = 256,
    vocabulary: int = 256,
    context: int = 256,
    tied: bool = True,
    dtype: str = "float32",
    window: int | None = None,
) -> ModelSpec:
    """A Llama without weights; the defaults are the sizes of ``tests.models``' tiny Llama, but tied."""
    cache = AttentionCache(kv_heads=kv_heads, head_dim=head_dim, window=window)
    return ModelSpec.model_validate(
        {
            "source": "tiny",
            "model_type": "llama",
            "architecture": "LlamaForCausalLM",
            "family": "llama",
            "dtype": dtype,
            "block_path": "model.layers",
            "blocks": blocks,
            "hidden_size": hidden,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "ffn_size": ffn,
            "vocabulary": vocabulary,
            "context": context,
            "tied": tied,
            "linears": _llama_linears(blocks, hidden, heads * head_dim, kv_heads * head_dim, ffn, vocabulary),
            "fixed": _llama_norms(blocks, hidden),
            "layout": (Block(heads=heads, ffn=ffn, cache=cache),) * blocks,
        }
    )


def _llama_linears(
    blocks: int, hidden: int, queries: int, keys: int, ffn: int, vocabulary: int
) -> tuple[Linear, ...]:
    def linear(
        name: str, role: str, shape: tuple[int, int], axes: tuple[Axis, Axis], block: int | None
    ) -> Linear:
        return Linear(
            name=name,
            parameter=f"{name}.weight",
            role=role,
            block=block,
            out_features=shape[0],
            in_features=shape[1],
            out_axis=axes[0],
            in_axis=axes[1],
        )

    inside: tuple[tuple[str, str, tuple[int, int], tuple[Axis, Axis]], ...] = (
        ("self_attn.q_proj", "q", (queries, hidden), ("heads", "hidden")),
        ("self_attn.k_proj", "k", (keys, hidden), ("kv_heads", "hidden")),
        ("self_attn.v_proj", "v", (keys, hidden), ("kv_heads", "hidden")),
        ("self_attn.o_proj", "o", (hidden, queries), ("hidden", "heads")),
        ("mlp.gate_proj", "gate", (ffn, hidden), ("ffn", "hidden")),
        ("mlp.up_proj", "up", (ffn, hidden), ("ffn", "hidden")),
        ("mlp.down_proj", "down", (hidden, ffn), ("hidden", "ffn")),
    )
    ends: tuple[Axis, Axis] = ("none", "hidden")
    return (
        linear("model.embed_tokens", "embedding", (vocabulary, hidden), ends, None),
        *(linear(f"model.layers.{b}.{name}", *more, b) for b in range(blocks) for name, *more in inside),
        linear("lm_head", "head", (vocabulary, hidden), ends, None),
    )


def _llama_norms(blocks: int, hidden: int) -> tuple[FixedTensor, ...]:
    inside = [
        FixedTensor(name=f"model.layers.{b}.{name}.weight", shape=(hidden,), block=b, axis="hidden")
        for b in range(blocks)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    return (*inside, FixedTensor(name="model.norm.weight", shape=(hidden,), axis="hidden"))


@dataclass
class FakeLegality:
    """Accepts whatever the container can hold; refuses more where told to.

    Attributes:
        fused: whether q/k/v, gate/up and experts share a choice.
        refuse_choice: a reason for a choice it shall refuse, else ``""``.
        refused_kv, refused_pruned: names that are refused.
    """

    engine: str = "fake"
    device: str = "fake-device"
    fused: bool = True
    refuse_choice: Callable[[FusedGroup, LayerChoice], str] = field(default=lambda group, choice: "")
    refused_kv: tuple[str, ...] = ()
    refused_pruned: tuple[str, ...] = ()

    def groups(self, spec: ModelSpec) -> tuple[FusedGroup, ...]:
        return fused_groups(spec) if self.fused else single_groups(spec)

    def choice(self, spec: ModelSpec, group: FusedGroup, choice: LayerChoice, pruned: PrunedShape) -> Ruling:
        reason = self.refuse_choice(group, choice)
        if reason:
            return illegal(reason, "fake")
        for layer in group.layers:
            columns = kept_shape(spec, spec.linear(layer), pruned)[1]
            size = choice.weight.group_size
            if size is not None and columns % size:
                return illegal(f"group size {size} does not divide {columns}", "fake")
        return LEGAL

    def kv(self, spec: ModelSpec, kv: KVFormat) -> Ruling:
        return illegal(f"{kv.name} is refused", "fake") if kv.name in self.refused_kv else LEGAL

    def pruned(self, spec: ModelSpec, pruned: PrunedShape) -> Ruling:
        refused = pruned.name in self.refused_pruned
        return illegal(f"{pruned.name} is refused", "fake") if refused else LEGAL


def tiny_moe_spec(blocks: int = 3, experts: int = 4, ffn: int = 128, tied: bool = True) -> ModelSpec:
    """A Qwen3-MoE without weights, bfloat16; hidden 128, 4 heads of 32 and 2 key-value heads."""
    values = {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 256,
        "moe_intermediate_size": ffn,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    }
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values))
        return read_model(Path(folder), source="tiny-moe")
