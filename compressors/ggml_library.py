"""ggml's own quantizers, called in its shared library: the numerics of llama.cpp's formats.

The library is the one of ``libggml-python``. It is never loaded beside llama.cpp's own in one process: that crashes.
Source of the structure: ``ggml.h`` of ggml 0.20 (``struct ggml_type_traits``).
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from paretune.spaces.errors import FormatError
from paretune.spaces.ggml_types import GGML_TYPES, GgmlType

_LEAST_ROWS = 16
"""Of a thread."""


class _Traits(ctypes.Structure):
    """``struct ggml_type_traits``."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_weights", ctypes.c_int64),
        ("block_weights_interleaved", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


@cache
def _library() -> ctypes.CDLL:
    """The shared library, its functions declared.

    Raises:
        FormatError: the package is not installed.
    """
    found = find_spec("libggml")
    if found is None or found.origin is None:
        raise FormatError(
            "a format of ggml",
            "is made by ggml itself, which is not installed",
            "pip install 'paretune[llama]'",
        )
    folder = next(Path(found.origin).parent.glob("lib*"))
    library = ctypes.CDLL(str(folder / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_get_type_traits.argtypes = (ctypes.c_int,)
    return library


def quantize_rows(
    weight: NDArray[np.float32], name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Blocks of every row.

    Args:
        weight: contiguous ``(rows, columns)``, finite.
        name: of the type.
        importance: positive weight of every column, ``(columns,)``.

    Returns:
        ``(rows, bytes of a row)``.

    Raises:
        FormatError: ggml is not installed, or the type wants an importance.
    """
    found = GGML_TYPES[name]
    if found.needs_importance and importance is None:
        raise FormatError(
            f"ggml type {name}", "needs the importance of input channels", f"Use {name}/ggml-importance"
        )
    rows, columns = weight.shape
    out = np.empty((rows, columns // found.block_weights * found.block_bytes), np.uint8)
    weights = None if importance is None else importance.ctypes.data_as(ctypes.c_void_p)
    library = _library()
    library.ggml_quantize_init(
        found.number
    )  # tables of some types; made once, before threads would make them

    def quantize(part: slice) -> int:
        here, there = weight[part], out[part]
        written: int = library.ggml_quantize_chunk(
            found.number, here.ctypes.data_as(ctypes.c_void_p), there.ctypes.data_as(ctypes.c_void_p),
            0, len(here), columns, weights,
        )  # fmt: skip
        return written

    # Rows do not know of each other, and the library gives the interpreter back while it works.
    count = max(1, min(torch.get_num_threads(), rows // _LEAST_ROWS))
    parts = [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        _check_written(name, sum(pool.map(quantize, parts)), out.nbytes)
    return out


def _check_written(name: str, written: int, wanted: int) -> None:
    if written != wanted:
        raise FormatError(
            f"ggml type {name}", f"wrote {written} bytes, not {wanted}", "Install libggml-python 0.20"
        )


def expand_rows(blocks: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """What blocks ``(rows, bytes of a row)`` stand for, ``(rows, columns)``."""
    found: GgmlType = GGML_TYPES[name]
    rows, columns = blocks.shape[0], blocks.shape[1] // found.block_bytes * found.block_weights
    out = np.empty((rows, columns), np.float32)
    expand = _ToFloat(_library().ggml_get_type_traits(found.number).contents.to_float)
    expand(blocks.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), out.size)
    return out
