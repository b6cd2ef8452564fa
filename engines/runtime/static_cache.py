"""The key-value cache of our own runtimes: allocated once, in any format, full or sliding attention.

A :class:`transformers.Cache` whose layers write into fixed buffers and hand out views of what is filled, so
that no step allocates more than it reads. Formats are those of :class:`paretune.spaces.cache_format.KVFormat`, one a
block, their arithmetic that of :mod:`paretune.compressors.cache_numbers`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from paretune.compressors.cache_numbers import CacheNumbers, IntegerNumbers, cache_numbers
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import ModelSpec

_EIGHT_BITS = KVFormat(num_bits=8)
_SPARE_TOKENS = 64
"""Room of a sliding layer beyond its window: it is moved to the front once in so many steps."""


class DenseStore:
    """Numbers as they are, ``(batch, heads, tokens, width)``."""

    def __init__(self, states: torch.Tensor, capacity: int) -> None:
        self.numbers = states.new_empty((*states.shape[:2], capacity, states.shape[3]))

    def round(self, states: torch.Tensor) -> torch.Tensor:
        """What reading back would give."""
        return states

    def write(self, start: int, states: torch.Tensor) -> None:
        """Put ``states`` at token ``start``."""
        self.numbers[:, :, start : start + states.shape[2]] = states

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Tokens ``start`` to ``stop``."""
        return self.numbers[:, :, start:stop]

    def move(self, start: int, stop: int) -> None:
        """Move tokens ``start`` to ``stop`` to the front."""
        self.numbers[:, :, : stop - start] = self.numbers[:, :, start:stop].clone()


class EncodedStore:
    """Codes and scales ``(batch, heads, tokens, ...)`` of rounded numbers.

    Args:
        states: of the first tokens; only shape, dtype and device are read.
        capacity: tokens.
        numbers: what is stored of a token and head.
    """

    def __init__(self, states: torch.Tensor, capacity: int, numbers: CacheNumbers) -> None:
        shape, self.width = (*states.shape[:2], capacity), states.shape[3]
        self.codes = states.new_empty((*shape, numbers.code_width(self.width)), dtype=numbers.code_dtype)
        self.scales = states.new_empty((*shape, numbers.scale_width(self.width)), dtype=numbers.scale_dtype)
        self.dtype = states.dtype
        self.numbers = numbers

    def round(self, states: torch.Tensor) -> torch.Tensor:
        """See :meth:`DenseStore.round`."""
        return self.numbers.round(states)

    def write(self, start: int, states: torch.Tensor) -> None:
        """See :meth:`DenseStore.write`."""
        stop = start + states.shape[2]
        self.codes[:, :, start:stop], self.scales[:, :, start:stop] = self.numbers.encode(states)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """See :meth:`DenseStore.read`; dequantized."""
        codes, scales = self.codes[:, :, start:stop], self.scales[:, :, start:stop]
        return self.numbers.decode(codes, scales, self.width, self.dtype)

    def move(self, start: int, stop: int) -> None:
        """See :meth:`DenseStore.move`."""
        for kept in (self.codes, self.scales):
            kept[:, :, : stop - start] = kept[:, :, start:stop].clone()


class EightBitStore(EncodedStore):
    """Integers of 8 bits."""

    def __init__(self, states: torch.Tensor, capacity: int, scale_dtype: torch.dtype) -> None:
        super().__init__(states, capacity, IntegerNumbers(scale_dtype))


Store = DenseStore | EncodedStore


def stores(
    kv: KVFormat, keys: torch.Tensor, values: torch.Tensor, capacity: int, scale_dtype: torch.dtype
) -> tuple[Store, Store]:
    """Empty stores of keys and values of one block.

    Args:
        kv: of the block.
        keys: of the first tokens; only shape, dtype and device are read.
        values: likewise.
        capacity: tokens.
        scale_dtype: that scales are stored in.
    """
    found: list[Store] = []
    for states, numbers in zip((keys, values), cache_numbers(kv, scale_dtype), strict=True):
        if numbers is None:
            found.append(DenseStore(states, capacity))
        elif isinstance(numbers, IntegerNumbers):
            found.append(EightBitStore(states, capacity, scale_dtype))
        else:
            found.append(EncodedStore(states, capacity, numbers))
    return found[0], found[1]


class StaticCacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """One block.

    Args:
        capacity: most tokens of a sequence.
        window: tokens that sliding attention looks back at; ``None``: all.
        scale_dtype: that scales are stored in; ``None`` keeps numbers as they are, whatever the format.
        kv: of the block.
    """

    is_compileable = False

    def __init__(
        self,
        capacity: int,
        window: int | None,
        scale_dtype: torch.dtype | None,
        kv: KVFormat = _EIGHT_BITS,
    ) -> None:
        super().__init__()
        self.window = capacity if window is None else min(window, capacity)
        self.is_sliding = window is not None
        self.capacity = min(capacity, self.window + _SPARE_TOKENS)
        self.scale_dtype = scale_dtype
        self.kv = KVFormat() if scale_dtype is None else kv
        self.seen = 0
        self._filled = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers."""
        dtype = self.scale_dtype or key_states.dtype
        self._stores = stores(self.kv, key_states, value_states, self.capacity, dtype)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states ``(batch, heads, tokens, width)``; returns what attention reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        tokens, old = key_states.shape[2], self._old(key_states.shape[2])
        found = []
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            if tokens == 1:
                found.append(self._step(store, states, old))
            else:
                found.append(self._prompt(store, states, old))
        self._filled = min(old + tokens, self.capacity)
        self.seen += tokens
        return found[0], found[1]

    def _old(self, tokens: int) -> int:
        """Tokens that stay before new ones come: all if these fit too, else what the window needs."""
        return self._filled if self._filled + tokens <= self.capacity else min(self._filled, self.window - 1)

    def _step(self, store: Store, states: torch.Tensor, old: int) -> torch.Tensor:
        if old != self._filled:
            store.move(self._filled - old, self._filled)
        store.write(old, states)
        return store.read(max(0, old + 1 - self.window), old + 1)

    def _prompt(self, store: Store, states: torch.Tensor, old: int) -> torch.Tensor:
        """Several tokens at once: all of them look back, so all are handed out."""
        looked_at = min(self._filled, self.window - 1)
        before = store.read(self._filled - looked_at, self._filled).clone()
        if old + states.shape[2] > self.capacity:
            everything = torch.cat([before, states], dim=2)
            store.write(0, everything[:, :, -self.capacity :])
        else:
            if old != self._filled:
                store.move(self._filled - old, self._filled)
            store.write(old, states)
        return torch.cat([before, store.round(states)], dim=2) if looked_at else store.round(states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what :meth:`update` will hand out."""
        length = query_length + min(self.seen, self.window - 1)
        return length, self.seen + query_length - length

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.seen

    def get_max_length(self) -> int:
        """Tokens that the window holds."""
        return self.window

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        tensors = [tensor for store in self._stores for tensor in vars(store).values()]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def static_cache(spec: ModelSpec, config: CompressionConfig, tokens: int, scale_dtype: torch.dtype) -> Cache:
    """An empty cache for sequences of at most ``tokens``.

    Raises:
        ConfigurationError: formats were given block by block, and the model has another number of blocks; or its
            blocks do not all keep keys and values.
    """
    config.kv.check_blocks(spec.blocks)
    uneven = spec.why_uneven()
    if uneven is not None:
        raise ConfigurationError(
            f"cache of {spec.source}",
            f"cannot be held in fixed buffers: {uneven}",
            "Run it with another engine",
        )
    layers = [
        StaticCacheLayer(tokens, layer.window, scale_dtype, config.kv.block(block))
        for block, layer in spec.attention
        if config.keeps_block(block)
    ]
    return Cache(layers=layers)
