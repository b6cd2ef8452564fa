"""Names, types and shapes of the tensors in ``*.safetensors`` files, read from their headers alone.

Layout of a file (huggingface/safetensors, format description): 8 bytes little-endian length of the header,
the header as JSON (tensor -> dtype, shape, data_offsets), then the data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paretune.spaces.errors import ModelError
from paretune.spaces.files import WRONG_CONTENT, FileKind, parse_json, read_object, refuse_linked_out

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LONGEST_HEADER = 100_000_000
_REMEDY = "Copy or download the file again"
_WEIGHTS = FileKind("weights file", ModelError, _REMEDY)
_INDEX = FileKind("index", ModelError, _REMEDY, _LONGEST_HEADER)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: its type in safetensors' words (``BF16``), shape, bytes and file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: Path


def read_header(file: Path) -> tuple[StoredTensor, ...]:
    """The tensors of one file, in the order of its header.

    Raises:
        ModelError: the file is absent, no safetensors file, or shorter than its header promises.
    """
    try:
        actual = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _LONGEST_HEADER
            text = stream.read(length) if length < min(_LONGEST_HEADER, actual) else b""
    except OSError as error:
        raise _WEIGHTS.refusal(file, f"cannot be read ({error.strerror})") from error
    if len(text) != length:
        raise _WEIGHTS.refusal(file, "is cut short or no safetensors file: its header is incomplete")
    header = parse_json(text, file, replace(_WEIGHTS, what="header of weights file"))
    if not isinstance(header, dict):
        raise _WEIGHTS.refusal(file, "is no safetensors file: its header is no object")
    tensors = tuple(_tensor(file, name, entry) for name, entry in header.items() if name != "__metadata__")
    promised = 8 + length + sum(tensor.size_bytes for tensor in tensors)
    if actual != promised:
        raise _WEIGHTS.refusal(file, f"has {actual} bytes, its header promises {promised}")
    return tensors


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder, named by its index where it has one.

    Raises:
        ModelError: there is none, or the index is unreadable, names an absent file or leaves the folder.
    """
    index = folder / INDEX
    if index.is_file():
        return tuple(_shard(folder, name) for name in sorted(set(_weight_map(index).values())))
    if (folder / SINGLE).is_file():
        return (refuse_linked_out(folder / SINGLE, folder),)
    others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".gguf"))
    found = f"only {', '.join(others[:3])} was found" if others else "nothing like it was found"
    raise ModelError(
        f"model folder {folder}",
        f"must hold {SINGLE} or {INDEX}; {found}",
        "Save the model with save_pretrained, which writes safetensors",
    )


def present_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that are there, whatever an index says; none is no error."""
    named = set(_weight_map(folder / INDEX).values()) if (folder / INDEX).is_file() else {SINGLE}
    return tuple(path for name in sorted(named) if (path := folder / Path(name).name).is_file())


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file, of an index."""
    mapping = read_object(index, _INDEX).get("weight_map")
    if not (
        isinstance(mapping, dict) and mapping and all(isinstance(name, str) for name in mapping.values())
    ):
        raise _INDEX.refusal(index, "must have a weight_map, from tensor names to files")
    return mapping


def _shard(folder: Path, name: str) -> Path:
    """A file that an index names, which must lie in the folder itself."""
    if Path(name).name != name or name in (".", ".."):
        raise ModelError(
            f"file {name!r} in {folder / INDEX}",
            "must be a plain file name inside the model folder",
            "Do not use this checkpoint unless you trust who made it; write its index again",
        )
    if not (folder / name).is_file():
        raise ModelError(
            f"weights file {folder / name}", f"is named by {INDEX} but absent", "Download the missing shard"
        )
    return refuse_linked_out(folder / name, folder)


def _tensor(file: Path, name: str, entry: Any) -> StoredTensor:
    try:
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if not all(type(number) is int and number >= 0 for number in (begin, end - begin, *shape)):
            raise ValueError("not a count")
        return StoredTensor(name, str(entry["dtype"]), shape, end - begin, file)
    except WRONG_CONTENT as error:
        raise ModelError(f"tensor {name!r} in {file}", "has an unreadable header entry", _REMEDY) from error
