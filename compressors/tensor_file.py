"""Safetensors files written in place of a temporary one, hashed on the way, without a copy of the tensors.

Layout (huggingface/safetensors, format description): 8 bytes little-endian length of the header, the header
as JSON padded with spaces to a multiple of 8, then the data of the tensors one after the other.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch

from paretune.spaces.files import write_parts

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
}


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> tuple[str, int]:
    """Write contiguous CPU tensors; returns SHA-256 and bytes of the file.

    Raises:
        RunError: the disk is full, or the folder cannot be written to; nothing is left behind.
    """
    parts = [_header(tensors), *(_buffer(tensor) for tensor in tensors.values())]
    return write_parts(file, parts, durable=False)  # the bank has their hashes, and makes a lost one again


def _header(tensors: dict[str, torch.Tensor]) -> bytes:
    entries, position = {}, 0
    for name, tensor in tensors.items():
        end = position + tensor.nbytes
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _buffer(tensor: torch.Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()
