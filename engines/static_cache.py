"""The key-value cache of our own runtimes: allocated once, 16 or 8 bits, full or sliding attention.

A :class:`transformers.Cache` whose layers write into fixed buffers and hand out views of what is filled, so
that no step allocates more than it reads. Eight bits are codes with one scale a token and head, rounded to
the dtype in which scales are stored: :class:`spaces.formats.KVFormat`, the arithmetic of
:func:`compressors.rounding.fake_int8`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from spaces.configuration import CompressionConfig
from spaces.model import ModelSpec

_LARGEST = 127
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


class EightBitStore:
    """int8 codes ``(batch, heads, tokens, width)``, scales ``(batch, heads, tokens, 1)``."""

    def __init__(self, states: torch.Tensor, capacity: int, scale_dtype: torch.dtype) -> None:
        shape = (*states.shape[:2], capacity)
        self.codes = states.new_empty((*shape, states.shape[3]), dtype=torch.int8)
        self.scales = states.new_empty((*shape, 1), dtype=scale_dtype)
        self.dtype = states.dtype

    def _encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exact = states.to(torch.float32)
        scales = (exact.abs().amax(dim=-1, keepdim=True) / _LARGEST).to(self.scales.dtype)
        scales = torch.where(scales == 0, torch.ones_like(scales), scales)
        codes = (exact / scales.to(torch.float32)).round_().clamp_(-_LARGEST - 1, _LARGEST)
        return codes.to(torch.int8), scales

    def _decode(self, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return codes.to(torch.float32).mul_(scales.to(torch.float32)).to(self.dtype)

    def round(self, states: torch.Tensor) -> torch.Tensor:
        """See :meth:`DenseStore.round`."""
        return self._decode(*self._encode(states))

    def write(self, start: int, states: torch.Tensor) -> None:
        """See :meth:`DenseStore.write`."""
        stop = start + states.shape[2]
        self.codes[:, :, start:stop], self.scales[:, :, start:stop] = self._encode(states)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """See :meth:`DenseStore.read`; dequantized."""
        return self._decode(self.codes[:, :, start:stop], self.scales[:, :, start:stop])

    def move(self, start: int, stop: int) -> None:
        """See :meth:`DenseStore.move`."""
        for kept in (self.codes, self.scales):
            kept[:, :, : stop - start] = kept[:, :, start:stop].clone()


class StaticCacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """One block.

    Args:
        capacity: most tokens of a sequence.
        window: tokens that sliding attention looks back at; ``None``: all.
        scale_dtype: of the 8-bit format; ``None`` keeps numbers as they are.
    """

    is_compileable = False

    def __init__(self, capacity: int, window: int | None, scale_dtype: torch.dtype | None) -> None:
        super().__init__()
        self.window = capacity if window is None else min(window, capacity)
        self.is_sliding = window is not None
        self.capacity = min(capacity, self.window + _SPARE_TOKENS)
        self.scale_dtype = scale_dtype
        self.seen = 0
        self._filled = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers."""
        self._stores = [self._store(states) for states in (key_states, value_states)]
        self.is_initialized = True

    def _store(self, states: torch.Tensor) -> DenseStore | EightBitStore:
        if self.scale_dtype is None:
            return DenseStore(states, self.capacity)
        return EightBitStore(states, self.capacity, self.scale_dtype)

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

    def _step(self, store: DenseStore | EightBitStore, states: torch.Tensor, old: int) -> torch.Tensor:
        if old != self._filled:
            store.move(self._filled - old, self._filled)
        store.write(old, states)
        return store.read(max(0, old + 1 - self.window), old + 1)

    def _prompt(self, store: DenseStore | EightBitStore, states: torch.Tensor, old: int) -> torch.Tensor:
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
    """An empty cache for sequences of at most ``tokens``."""
    rounded = None if config.kv.num_bits == 16 else scale_dtype
    layers = [
        StaticCacheLayer(tokens, layer.window, rounded)
        for block, layer in enumerate(spec.cache)
        if config.keeps_block(block)
    ]
    return Cache(layers=layers)
