"""Safetensors files written in place of a temporary one, hashed on the way, without a copy of the tensors.

Layout (huggingface/safetensors, format description): 8 bytes little-endian length of the header, the header
as JSON padded with spaces to a multiple of 8, then the data of the tensors one after the other.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from paretune.spaces.errors import RunError

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
    return write_atomically(file, [_header(tensors), *(_buffer(tensor) for tensor in tensors.values())])


def write_atomically(file: Path, parts: Iterable[Any]) -> tuple[str, int]:
    """Write ``parts`` (bytes-like) to a temporary name, then rename; returns SHA-256 and bytes.

    Raises:
        RunError: as in :func:`write_tensors`.
    """
    digest, size = hashlib.sha256(), 0
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            for part in parts:
                digest.update(part)
                size += stream.write(part)
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(file, error) from error
    return digest.hexdigest(), size


def unwritable(file: Path, error: OSError) -> RunError:
    """The refusal that a failed write becomes."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    reason = "the disk is full" if full else f"cannot be written ({error.strerror})"
    remedy = "Free some space" if full else "Check the permissions of the folder"
    return RunError(f"file {file}", reason, f"{remedy}, then start again: what is there is used")


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
