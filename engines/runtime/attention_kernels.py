"""Attention over caches of every format: names of the kernels, which read the cache, dequantize it and multiply."""

from __future__ import annotations

from paretune.spaces.cache_format import KVFormat

ATTENTION_KERNELS: dict[str, KVFormat] = {
    "sdpa": KVFormat(),
    "sdpa-kv8": KVFormat(num_bits=8),
    "sdpa-kv8-ggml": KVFormat(num_bits=8, number_type="ggml"),
    "sdpa-kv8-fp": KVFormat(num_bits=8, number_type="float"),
    "sdpa-kv4": KVFormat(num_bits=4),
    "sdpa-kv2": KVFormat(num_bits=2),
}
"""Cache of each kernel; static scales play no part in what it costs."""


def attention_kernel(kv: KVFormat) -> str:
    """Name of the kernel for a block whose cache is ``kv``."""
    return next(
        name
        for name, known in ATTENTION_KERNELS.items()
        if (known.num_bits, known.number_type) == (kv.num_bits, kv.number_type)
    )
