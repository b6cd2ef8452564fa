"""Tiny random models of every family, built offline: config, safetensors and a tokenizer in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = 256
"""Tokens of every tiny model: one for each byte and nothing else."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED: dict[str, Any] = {**_COMMON, "intermediate_size": 256, "num_key_value_heads": 2, "head_dim": 32}
_SLIDING: dict[str, Any] = {**_GROUPED, "sliding_window": 16}
_MIXTURE: dict[str, Any] = {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # family: (configuration class, model class, arguments of the configuration)
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", _SLIDING),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _GROUPED),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _SLIDING),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _SLIDING),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_COMMON, "intermediate_size": 256}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**_COMMON, "ffn_dim": 256, "word_embed_proj_dim": 128}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {**_COMMON, "n_inner": 256}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", _MIXTURE),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**_MIXTURE, "moe_intermediate_size": 128}),
}


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model in evaluation mode; ``changes`` override configuration arguments."""
    import torch
    import transformers

    configuration, model, arguments = FAMILIES[family]
    config = getattr(transformers, configuration)(**{**arguments, **changes})
    config.initializer_range = 0.08
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = getattr(transformers, model)(config)
        _stir(built, torch.Generator().manual_seed(seed))
    return built.eval()


def _stir(model: Any, generator: Any) -> None:
    """Make norms and biases differ from one and zero, so that losing one shows."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def build_tiny(family: str, folder: Path, seed: int = 0, dtype: str = "float32", **changes: Any) -> Path:
    """Save a tiny model of ``family`` with its tokenizer into ``folder``, which is returned.

    Args:
        family: a key of :data:`FAMILIES`.
        folder: made if absent.
        seed: of the weights.
        dtype: that the weights are saved in: ``float32`` or ``bfloat16``.
        changes: arguments of the configuration, e.g. ``tie_word_embeddings=True``.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(family, seed, **changes)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_tokenizer() -> Any:
    """Bytes as tokens, in GPT-2's byte-level alphabet; any text comes back unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
