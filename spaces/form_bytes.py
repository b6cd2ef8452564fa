"""Bytes of a quantized weight in the containers of bitsandbytes, GPTQ and AWQ, tensor by tensor.

Sources: bitsandbytes 0.50 (``QuantState.as_dict``), GPTQModel 7.6 (``PackableQuantLinear``, ``pack_awq``). What the
search counts is compressed-tensors; an export in another form says its own bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from paretune.spaces.containers import StoredBytes

if TYPE_CHECKING:
    from paretune.spaces.formats import WeightFormat

FORM_CONTAINERS: tuple[str, ...] = ("bitsandbytes", "gptq", "awq")

_MAP_BYTES = 16 * 4
_HALF_BYTES = 2


def form_bytes(container: str, shape: tuple[int, int], weight: WeightFormat, dtype: str) -> StoredBytes:
    """Bytes of a ``(rows, columns)`` weight.

    Args:
        container: one of :data:`FORM_CONTAINERS`.
        shape: ``(out_features, in_features)``.
        weight: its format, not dense.
        dtype: of the checkpoint, by name.
    """
    if container == "bitsandbytes":
        return bitsandbytes_bytes(shape, weight, dtype)
    return gptq_bytes(shape, weight) if container == "gptq" else awq_bytes(shape, weight)


def bitsandbytes_bytes(shape: tuple[int, int], weight: WeightFormat, dtype: str) -> StoredBytes:
    """Of 4 bits by blocks.

    ===========================================  ===========================  =======
    tensor                                       shape                        dtype
    ===========================================  ===========================  =======
    ``weight``                                   ``(rows * columns / 2, 1)``  uint8
    ``weight.absmax``                            ``(rows * groups,)``         float32
    ``weight.quant_map``                         ``(16,)``                    float32
    ``weight.quant_state.bitsandbytes__nf4``     JSON, a byte a letter        uint8
    ===========================================  ===========================  =======
    """
    rows, columns = shape
    payload = rows * columns // 2 + rows * weight.groups(columns) * 4
    return StoredBytes(payload, _MAP_BYTES + len(quant_state(shape, weight, dtype)))


def quant_state(shape: tuple[int, int], weight: WeightFormat, dtype: str) -> str:
    """The record that bitsandbytes keeps beside a weight, as it writes it itself."""
    values = {
        "quant_type": "nf4",
        "blocksize": weight.group_size or shape[1],
        "dtype": dtype,
        "shape": list(shape),
    }
    return json.dumps(values)


def gptq_bytes(shape: tuple[int, int], weight: WeightFormat) -> StoredBytes:
    """Of 2, 3, 4 or 8 bits; zero points of a symmetric format are there and tell nothing.

    ===========  =======================================  =======
    tensor       shape                                    dtype
    ===========  =======================================  =======
    ``qweight``  ``(columns * bits / 32, rows)``          int32
    ``qzeros``   ``(groups, rows * bits / 32)``           int32
    ``scales``   ``(groups, rows)``                       float16
    ``g_idx``    ``(columns,)``                           int32
    ===========  =======================================  =======
    """
    codes, scales, zeros = _words(shape, weight)
    spare = 0 if weight.symmetric else zeros
    return StoredBytes(codes + scales + spare, shape[1] * 4 + zeros - spare)


def awq_bytes(shape: tuple[int, int], weight: WeightFormat) -> StoredBytes:
    """Of 4 bits.

    ===========  ==============================  =======
    tensor       shape                           dtype
    ===========  ==============================  =======
    ``qweight``  ``(columns, rows / 8)``         int32
    ``qzeros``   ``(groups, rows / 8)``          int32
    ``scales``   ``(groups, rows)``              float16
    ===========  ==============================  =======
    """
    codes, scales, zeros = _words(shape, weight)
    spare = 0 if weight.symmetric else zeros
    return StoredBytes(codes + scales + spare, zeros - spare)


def _words(shape: tuple[int, int], weight: WeightFormat) -> tuple[int, int, int]:
    """Bytes of codes, of scales and of zero points; codes fill whole words."""
    rows, columns = shape
    groups = weight.groups(columns)
    return (
        rows * columns * weight.num_bits // 8,
        groups * rows * _HALF_BYTES,
        groups * rows * weight.num_bits // 8,
    )
