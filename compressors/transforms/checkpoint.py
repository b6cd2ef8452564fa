"""Writes a transformed model as a plain folder, which bank, search and export take like any other.

Everything goes into a folder beside the target, which takes the target's name when it is complete.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.companions import copy_companions
from paretune.spaces.errors import ModelError
from paretune.spaces.files import CONFIGURATION, read_object, write_whole, written_whole
from paretune.spaces.model import ModelSpec

_SHARD_BYTES = 5 * 10**9


def write_model(
    model: Any, spec: ModelSpec, source: Path, folder: Path, dtype: torch.dtype | None = None
) -> Path:
    """Write ``model`` into ``folder`` and return it.

    Args:
        model: transformed, loaded from ``source``.
        spec: that the transform returned.
        source: whose configuration and tokenizer go along; ``config.json`` stays as it is but for a head that is no
            longer tied and another dtype.
        folder: absent or empty.
        dtype: of the stored weights; that of ``source`` if left out. Rotated weights are rounded by it, rescaled
            ones too unless by powers of two: ``torch.float32`` keeps the logits.

    Raises:
        ModelError: the folder is not empty, ``source`` has no configuration, or nothing can be written.
    """
    stored = getattr(torch, spec.dtype) if dtype is None else dtype
    text = json.dumps(_config(source, spec, stored), indent=2) + "\n"
    with written_whole(folder, ModelError) as partial:
        _write_weights(model, partial, stored)
        write_whole(partial / "config.json", text)
        copy_companions(source, partial)
    return folder


def _write_weights(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """By the library itself, which knows how each family stores its experts and keeps what is tied once."""
    converted: dict[tuple[int, torch.Size], torch.Tensor] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        stored = tensor.to(dtype) if tensor.is_floating_point() else tensor
        # A tied head must stay the embedding's own tensor, or it would be stored a second time.
        tensors[name] = converted.setdefault((tensor.data_ptr(), tensor.shape), stored)
    model.save_pretrained(folder, state_dict=tensors, max_shard_size=_SHARD_BYTES)


def _config(source: Path, spec: ModelSpec, dtype: torch.dtype) -> dict[str, Any]:
    values = read_object(source / "config.json", CONFIGURATION)
    if not spec.tied and values.get("tie_word_embeddings", True):
        values["tie_word_embeddings"] = False
    word = str(dtype).removeprefix("torch.")
    if word != spec.dtype:
        values.pop("torch_dtype", None)
        values["dtype"] = word
    return values
