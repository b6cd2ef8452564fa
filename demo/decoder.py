"""The Llama decoder as it is trained: plain PyTorch, projections fused, compiled whole.

Source: Touvron et al. 2023 (https://arxiv.org/abs/2302.13971), grouped queries after Ainslie et al. 2023
(https://arxiv.org/abs/2305.13245). :func:`to_llama` makes of it the ``transformers`` model with the same
logits, which takes longer to train on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own custom)
from torch import Tensor, nn

HIDDEN = 256
FFN = 512
BLOCKS = 6
HEADS = 4
KV_HEADS = 2
HEAD = 64
VOCABULARY = 768
POSITIONS = 1024
_THETA = 10_000.0
_EPSILON = 1e-5
_INITIAL = 0.02


class Block(nn.Module):
    """Attention and gated FFN, each behind an RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD, bias=False)
        self.output = nn.Linear(HEADS * HEAD, HIDDEN, bias=False)
        self.gate_up = nn.Linear(HIDDEN, 2 * FFN, bias=False)
        self.down = nn.Linear(FFN, HIDDEN, bias=False)
        self.attention_norm = nn.Parameter(torch.ones(HIDDEN))
        self.ffn_norm = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """``x`` and the result: (batch, tokens, hidden)."""
        batch, tokens, _ = x.shape
        heads = _linear(self.qkv, _norm(x, self.attention_norm)).view(batch, tokens, -1, HEAD).transpose(1, 2)
        turned, values = heads[:, : HEADS + KV_HEADS], heads[:, HEADS + KV_HEADS :]
        half = torch.cat((-turned[..., HEAD // 2 :], turned[..., : HEAD // 2]), -1)
        turned = turned * cosine + half * sine
        mixed = F.scaled_dot_product_attention(
            turned[:, :HEADS], turned[:, HEADS:], values, is_causal=True, enable_gqa=True
        )
        x = x + _linear(self.output, mixed.transpose(1, 2).reshape(batch, tokens, -1))
        gate, up = _linear(self.gate_up, _norm(x, self.ffn_norm)).chunk(2, -1)
        return x + _linear(self.down, F.silu(gate) * up)


class Decoder(nn.Module):
    """Token ids to logits; parameters stay float32, arithmetic runs in ``dtype``."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, HIDDEN) * _INITIAL)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.cosine: Tensor
        self.sine: Tensor
        self.norm = nn.Parameter(torch.ones(HIDDEN))
        for name, parameter in self.blocks.named_parameters():
            if parameter.ndim == 2:
                shrink = (2 * BLOCKS) ** -0.5 if name.endswith(("output.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=_INITIAL * shrink)
        angles = torch.outer(torch.arange(POSITIONS), _THETA ** -(torch.arange(0, HEAD, 2) / HEAD))
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, tokens, vocabulary) in float32 of ``ids`` (batch, tokens)."""
        tokens = ids.shape[1]
        cosine, sine = (table[:tokens].to(self.dtype) for table in (self.cosine, self.sine))
        x = F.embedding(ids, self.embedding.to(self.dtype))
        for block in self.blocks:
            x = block(x, cosine, sine)
        return F.linear(_norm(x, self.norm), self.embedding.to(self.dtype)).float()


def to_llama(decoder: Decoder, end: int) -> Any:
    """The same model for ``transformers``.

    Args:
        decoder: trained.
        end: token that ends a document; it also begins and pads.

    Returns:
        A ``LlamaForCausalLM`` in float32 on the CPU.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD,
            max_position_embeddings=POSITIONS, rms_norm_eps=_EPSILON, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": _THETA},
            bos_token_id=end, eos_token_id=end, pad_token_id=end,
        )
    )  # fmt: skip
    weights: dict[str, Tensor] = {
        "model.embed_tokens.weight": decoder.embedding,
        "model.norm.weight": decoder.norm,
    }
    for index, block in enumerate(decoder.blocks):
        weights |= {f"model.layers.{index}.{name}.weight": weight for name, weight in _split(block).items()}
    missing = llama.load_state_dict({name: w.detach().cpu() for name, w in weights.items()}, strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) - {"lm_head.weight"}:
        raise RuntimeError(f"transformers names the weights of a Llama differently: {missing}")
    llama.tie_weights()
    return llama.eval()


def _split(block: Any) -> dict[str, Tensor]:
    query, key, value = block.qkv.weight.split((HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD))
    gate, up = block.gate_up.weight.chunk(2)
    return {
        "self_attn.q_proj": query, "self_attn.k_proj": key, "self_attn.v_proj": value,
        "self_attn.o_proj": block.output.weight, "mlp.gate_proj": gate, "mlp.up_proj": up,
        "mlp.down_proj": block.down.weight, "input_layernorm": block.attention_norm,
        "post_attention_layernorm": block.ffn_norm,
    }  # fmt: skip


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (HIDDEN,), weight.to(x.dtype), _EPSILON)
