"""The arithmetic of a rounded key-value cache: from states to what is stored of them, and back.

Scoring rounds with it and the runtime's cache stores with it, so that what is scored is what is read back, bit for
bit. Every number depends on its own token and head alone. Sources of the formats: :mod:`paretune.spaces.cache_format`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from paretune.compressors.float_rounding import round_e4m3
from paretune.compressors.rounding import fake_int8
from paretune.spaces.cache_format import CACHE_GROUP, KVFormat, cache_groups

_LARGEST = 127


class CacheNumbers(ABC):
    """How keys or values are stored; states are ``(..., width)``, ``width`` channels of one token and head.

    Args:
        scale_dtype: of stored scales.
    """

    code_dtype = torch.uint8

    def __init__(self, scale_dtype: torch.dtype) -> None:
        self.scale_dtype = scale_dtype

    @abstractmethod
    def code_width(self, width: int) -> int:
        """Elements of :attr:`code_dtype` that hold the codes of ``width`` numbers."""

    @abstractmethod
    def scale_width(self, width: int) -> int:
        """Elements of :attr:`scale_dtype` beside them."""

    @abstractmethod
    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes ``(..., code_width)`` and scales ``(..., scale_width)``."""

    @abstractmethod
    def decode(
        self, codes: torch.Tensor, scales: torch.Tensor, width: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """The states that were stored, ``(..., width)``."""

    def round(self, states: torch.Tensor) -> torch.Tensor:
        """What decoding would give, in the dtype of ``states``."""
        return self.decode(*self.encode(states), states.shape[-1], states.dtype)


class IntegerNumbers(CacheNumbers):
    """8 bits, symmetric: one scale a token and head, its largest magnitude / 127, 1 where all is zero."""

    code_dtype = torch.int8

    def code_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        return width

    def scale_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        del width
        return 1

    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`CacheNumbers`."""
        exact = states.to(torch.float32)
        scales = _not_zero((exact.abs().amax(dim=-1, keepdim=True) / _LARGEST).to(self.scale_dtype))
        codes = (exact / scales.to(torch.float32)).round_().clamp_(-_LARGEST - 1, _LARGEST)
        return codes.to(torch.int8), scales

    def decode(
        self, codes: torch.Tensor, scales: torch.Tensor, width: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """See :class:`CacheNumbers`."""
        del width
        return codes.to(torch.float32).mul_(scales.to(torch.float32)).to(dtype)

    def round(self, states: torch.Tensor) -> torch.Tensor:
        """See :class:`CacheNumbers`; without the codes in between."""
        return fake_int8(states, self.scale_dtype)


class BlockNumbers(CacheNumbers):
    """ggml's q8_0: symmetric integers of 8 bits, a float16 scale for every :data:`CACHE_GROUP` channels.

    The codes are chosen by the scale before it is rounded. Source: ``quantize_row_q8_0_ref`` in ``ggml-quants.c``.

    Args:
        scale_dtype: unused: a scale is float16 whatever the model is.
    """

    code_dtype = torch.int8

    def __init__(self, scale_dtype: torch.dtype) -> None:
        del scale_dtype
        super().__init__(torch.float16)

    def code_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        return width

    def scale_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        return cache_groups(width)

    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`CacheNumbers`."""
        exact, width = states.to(torch.float32), states.shape[-1]
        missing = cache_groups(width) * CACHE_GROUP - width
        padded = torch.nn.functional.pad(exact, (0, missing))
        groups = padded.view(*padded.shape[:-1], cache_groups(width), CACHE_GROUP)
        scales = groups.abs().amax(dim=-1) / _LARGEST
        codes = (groups / _not_zero(scales)[..., None]).round_().clamp_(-_LARGEST, _LARGEST)
        return codes.flatten(-2)[..., :width].to(torch.int8), scales.to(self.scale_dtype)

    def decode(
        self, codes: torch.Tensor, scales: torch.Tensor, width: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """See :class:`CacheNumbers`."""
        return codes.to(torch.float32).mul_(_spread(scales, width)).to(dtype)


class GroupedNumbers(CacheNumbers):
    """4 or 2 bits, asymmetric: a number is ``code * scale + minimum`` of its group of channels.

    The minimum is rounded to the stored dtype first, and the scale spans from there to the largest number; a group of
    equal numbers has scale 1 and codes 0. Codes are packed, the first in the lowest bits; scales of all groups come
    before all minima.

    Args:
        num_bits: 4 or 2.
        scale_dtype: of scales and minima.
    """

    def __init__(self, num_bits: int, scale_dtype: torch.dtype) -> None:
        super().__init__(scale_dtype)
        self._num_bits = num_bits
        self._levels = (1 << num_bits) - 1

    def code_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        return -(-width * self._num_bits // 8)

    def scale_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        return 2 * cache_groups(width)

    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`CacheNumbers`."""
        codes, scales, minima = self._codes(states)
        packed = self._packed(codes.to(torch.uint8))[..., : self.code_width(states.shape[-1])]
        return packed, torch.cat([scales, minima], dim=-1)

    def decode(
        self, codes: torch.Tensor, scales: torch.Tensor, width: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """See :class:`CacheNumbers`."""
        spans, minima = scales.chunk(2, dim=-1)
        return _numbers(self._unpacked(codes)[..., :width].to(torch.float32), spans, minima).to(dtype)

    def round(self, states: torch.Tensor) -> torch.Tensor:
        """See :class:`CacheNumbers`; without packing."""
        codes, scales, minima = self._codes(states)
        return _numbers(codes[..., : states.shape[-1]], scales, minima).to(states.dtype)

    def _codes(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Float32 codes of whole groups (the last number repeated), scales and minima of every group."""
        exact, width = states.to(torch.float32), states.shape[-1]
        missing = cache_groups(width) * CACHE_GROUP - width
        if missing:
            exact = torch.cat([exact, exact[..., -1:].expand(*exact.shape[:-1], missing)], dim=-1)
        groups = exact.view(*exact.shape[:-1], cache_groups(width), CACHE_GROUP)
        minima = groups.amin(dim=-1).to(self.scale_dtype)
        lowest = minima.to(torch.float32)
        # A minimum that was rounded up past the largest number leaves a span below zero.
        span = (groups.amax(dim=-1) - lowest).clamp_min_(0)
        scales = _not_zero((span / self._levels).to(self.scale_dtype))
        steps = (groups - lowest[..., None]) / scales.to(torch.float32)[..., None]
        return steps.round_().clamp_(0, self._levels).flatten(-2), scales, minima

    def _packed(self, codes: torch.Tensor) -> torch.Tensor:
        share = 8 // self._num_bits
        packed = codes[..., ::share].clone()
        for place in range(1, share):
            packed |= codes[..., place::share] << (place * self._num_bits)
        return packed

    def _unpacked(self, packed: torch.Tensor) -> torch.Tensor:
        shifts = range(0, 8, self._num_bits)
        return torch.stack([(packed >> shift) & self._levels for shift in shifts], dim=-1).flatten(-2)


class FloatNumbers(CacheNumbers):
    """E4M3 under one static scale: nearest numbers, beyond 448 scales the largest.

    Args:
        scale: that states are divided by.
        scale_dtype: unused: the scale is stored with the model.
    """

    def __init__(self, scale: float, scale_dtype: torch.dtype) -> None:
        super().__init__(scale_dtype)
        self._scale = scale

    def code_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        return width

    def scale_width(self, width: int) -> int:
        """See :class:`CacheNumbers`."""
        del width
        return 0

    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`CacheNumbers`."""
        codes = round_e4m3(states.to(torch.float32) / self._scale).view(torch.uint8)
        return codes, states.new_empty((*states.shape[:-1], 0), dtype=self.scale_dtype)

    def decode(
        self, codes: torch.Tensor, scales: torch.Tensor, width: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """See :class:`CacheNumbers`."""
        del scales, width
        return codes.view(torch.float8_e4m3fn).to(torch.float32).mul_(self._scale).to(dtype)


def cache_numbers(kv: KVFormat, scale_dtype: torch.dtype) -> tuple[CacheNumbers | None, CacheNumbers | None]:
    """Numbers of keys and of values of one block; ``None`` where they stay as they are.

    Args:
        kv: of one block: :meth:`KVFormat.block`.
        scale_dtype: that scales are stored in.
    """
    if kv.num_bits == 16:
        return None, None
    if kv.number_type == "float":
        return FloatNumbers(kv.key_scale, scale_dtype), FloatNumbers(kv.value_scale, scale_dtype)
    if kv.number_type == "ggml":
        return BlockNumbers(scale_dtype), BlockNumbers(scale_dtype)
    numbers = IntegerNumbers(scale_dtype) if kv.num_bits == 8 else GroupedNumbers(kv.num_bits, scale_dtype)
    return numbers, numbers


def _numbers(codes: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor) -> torch.Tensor:
    """``code * scale + minimum`` in float32; groups are spread over their channels."""
    spans, lowest = (_spread(part, codes.shape[-1]) for part in (scales, minima))
    return codes.mul(spans).add_(lowest)


def _spread(parts: torch.Tensor, width: int) -> torch.Tensor:
    """Float32, a group's number for each of its channels."""
    return parts.to(torch.float32).repeat_interleave(CACHE_GROUP, dim=-1)[..., :width]


def _not_zero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)
