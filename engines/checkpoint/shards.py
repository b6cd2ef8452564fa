"""Safetensors files of bounded size, with the index that ``transformers`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from paretune.spaces.files import write_whole

SHARD_BYTES = 5 * 10**9
_SINGLE = "model.safetensors"


def write_shards(
    tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES
) -> int:
    """Write ``tensors`` into ``folder``; at most one shard is in memory. Returns the bytes of all tensors.

    Raises:
        ValueError: two tensors of one name.
        OSError: the disk refuses.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    places: dict[str, int] = {}
    held: dict[str, torch.Tensor] = {}
    total = held_bytes = shards = 0

    def flush() -> None:
        nonlocal held, held_bytes, shards
        try:
            save_file(held, folder / f"shard-{shards}", metadata={"format": "pt"})
        except SafetensorError as error:  # whatever the disk said, in words of its own
            raise OSError(str(error)) from error
        held, held_bytes, shards = {}, 0, shards + 1

    for name, tensor in tensors:
        if name in places:
            raise ValueError(f"tensor {name} is written twice")
        if held and held_bytes + tensor.nbytes > shard_bytes:
            flush()
        held[name] = tensor
        places[name] = shards
        held_bytes += tensor.nbytes
        total += tensor.nbytes
    flush()
    _name_shards(folder, places, shards, total)
    return total


def _name_shards(folder: Path, places: dict[str, int], shards: int, total: int) -> None:
    if shards == 1:
        (folder / "shard-0").rename(folder / _SINGLE)
        return
    names = [f"model-{index + 1:05d}-of-{shards:05d}.safetensors" for index in range(shards)]
    for index, name in enumerate(names):
        (folder / f"shard-{index}").rename(folder / name)
    index_file = {
        "metadata": {"total_size": total},
        "weight_map": {tensor: names[place] for tensor, place in sorted(places.items())},
    }
    text = json.dumps(index_file, indent=2) + "\n"
    write_whole(folder / f"{_SINGLE}.index.json", text)
