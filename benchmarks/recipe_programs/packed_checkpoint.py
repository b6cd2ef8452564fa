"""Formats of a checkpoint in the layout of GPTQ: ``qweight``, ``qzeros``, ``scales`` and ``g_idx`` a module.

Codes of a width are packed along the inputs into int32 (``qweight`` of ``(inputs * bits / 32, outputs)``), zero points
along the outputs (``qzeros`` of ``(groups, outputs * bits / 32)``), so shapes alone say bits and groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.recipe_programs.job import Format


def packed_formats(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Format]:
    """What ``folder`` stores packed, by module path; ``shapes`` are those of the dense weights.

    A module is symmetric where every zero point is the middle code (stored less one in the older layout).
    """
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    found = {}
    for name, (rows, columns) in shapes.items():
        if f"{name}.qweight" not in tensors:
            continue
        packed, zeros = tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"]
        groups = tensors[f"{name}.scales"].shape[0]
        bits = packed.shape[0] * 32 // columns
        found[name] = Format(
            bits=bits,
            number_type="int",
            group_size=None if groups == 1 else columns // groups,
            symmetric=bool((unpacked(zeros, bits, rows) - 2 ** (bits - 1)).add(0.5).abs().eq(0.5).all()),
        )
    return found


def unpacked(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Codes of ``bits`` that lie one after the other, lowest bits first, in rows of int32; ``(rows, count)``."""
    words = packed.to(torch.int64) & 0xFFFFFFFF
    places = (words[:, :, None] >> torch.arange(32)) & 1
    stream = places.reshape(len(packed), -1)[:, : count * bits].reshape(len(packed), count, bits)
    return (stream << torch.arange(bits)).sum(dim=-1)
