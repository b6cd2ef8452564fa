"""Llama.cpp's own mixes of one GGUF file: ``python stock_mixes.py IN.gguf OUT_FOLDER IMPORTANCE.npz``.

By an interpreter that has ``llama-cpp-python``, which carries ``llama_model_quantize``; it builds from source and is
no dependency of ours. Every mix twice: as ``NAME`` without and as ``NAME+imatrix`` with an importance matrix: mean
squares of the inputs of a tensor, by its name in the file, ``(columns,)``. Mixes that demand one are written with it
alone.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np

MIXES = {
    "Q2_K": 10, "Q2_K_S": 21, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_0": 2, "Q4_1": 3, "Q4_K_S": 14,
    "Q4_K_M": 15, "Q5_0": 8, "Q5_1": 9, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7,
    "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28, "IQ2_M": 29,
    "IQ3_XXS": 23, "IQ3_XS": 22, "IQ3_S": 26, "IQ3_M": 27, "IQ4_XS": 30, "IQ4_NL": 25,
}  # fmt: skip
"""Names of ``enum llama_ftype`` and their numbers."""


def main(source: Path, folder: Path, importance: Path) -> None:
    """Write every mix that llama.cpp makes of the file."""
    import llama_cpp

    folder.mkdir(parents=True, exist_ok=True)
    matrix, kept = _matrix(llama_cpp, importance)
    for name, number in [(f"{n}{s}", k) for n, k in MIXES.items() for s in ("", "+imatrix")]:
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = number
        parameters.nthread = 2
        if name.endswith("+imatrix"):
            parameters.imatrix = matrix
        target = folder / f"{name}.gguf"
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
        print(name, "written" if status == 0 else f"refused ({status})", flush=True)
        if status:
            target.unlink(missing_ok=True)
    del kept
    print("llama-cpp-python", llama_cpp.__version__)


def _matrix(llama_cpp: Any, file: Path) -> tuple[Any, list[np.ndarray]]:
    """The array that ends with an entry without a name, and what its pointers point to."""
    with np.load(file, allow_pickle=False) as found:
        values = {name: np.ascontiguousarray(found[name], np.float32) for name in found.files}
    entries = (llama_cpp.llama_model_imatrix_data * (len(values) + 1))()
    for entry, (name, value) in zip(entries, values.items(), strict=False):
        entry.name = name.encode()
        entry.data = value.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = value.size
    return entries, list(values.values())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
