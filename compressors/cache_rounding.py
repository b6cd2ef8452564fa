"""A rounded key-value cache while scoring: keys after rotary embedding and values, block by block.

Done through the registry of attention functions of ``transformers``, so it holds for every family: a
registered function rounds keys and values and hands them to the model's own attention. At 16 bits the
model's own function is registered again, so nothing differs.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from paretune.compressors.cache_numbers import cache_numbers
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.errors import ConfigurationError

NUMBERS = "cache_numbers"
"""Attribute of an attention module: its :func:`paretune.compressors.cache_numbers.cache_numbers`."""
_PREFIX = "paretune_cache_"


class CacheRounding:
    """Switches a loaded model between the formats of the cache.

    Args:
        model: with attention of ``sdpa`` or ``eager``, all blocks in place.
        scale_dtype: that scales are rounded to.

    Attributes:
        modules: attention by block of the dense model.

    Raises:
        ConfigurationError: the model's cache is rounded already.
    """

    def __init__(self, model: Any, scale_dtype: torch.dtype) -> None:
        self._config = model.config
        self._scale_dtype = scale_dtype
        self._own = str(model.config._attn_implementation)
        if self._own.startswith(_PREFIX):
            raise ConfigurationError(
                "a model with a rounded cache",
                "is not the dense model",
                "Apply the dense configuration first",
            )
        self._rounded = _register(self._own)
        self._format = KVFormat()
        # Blocks are counted anew in a pruned model; formats are those of the dense model's blocks.
        self.modules = attention_modules(model)

    def apply(self, kv: KVFormat) -> None:
        """Score as if the cache had this format.

        Raises:
            ConfigurationError: formats were given block by block, and the model has another number of blocks.
        """
        if kv == self._format:
            return
        kv.check_blocks(len(self.modules))
        for block, modules in self.modules.items():
            numbers = cache_numbers(kv.block(block), self._scale_dtype)
            for module in modules:
                setattr(module, NUMBERS, numbers)
        self._config._attn_implementation = self._own if kv.num_bits == 16 else self._rounded
        self._format = kv


def attention_modules(model: Any) -> dict[int, list[Any]]:
    """Modules that know their block, by block; attention always does, for it asks the cache for it."""
    found: dict[int, list[Any]] = {}
    for module in model.modules():
        block = getattr(module, "layer_idx", None)
        if isinstance(block, int):
            found.setdefault(block, []).append(module)
    return found


def _register(own: str) -> str:
    """Register the rounding variant of an attention function; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = f"{_PREFIX}{own}"

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **options: Any
    ) -> Any:
        # The plain implementation is not in the registry: each family's file has its own.
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)
        keys, values = getattr(module, NUMBERS)
        rounded = (key if keys is None else keys.round(key), value if values is None else values.round(value))
        return attention(module, query, *rounded, *args, **options)

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[own])
    return name
