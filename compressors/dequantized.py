"""A checkpoint that ships quantized as the dense model that it stands for, written once as a folder like any other.

What follows (bank, candidates, exports) works on that folder, whose weights are those that ``transformers`` expands the
checkpoint to, in the type of its other tensors; the checkpoint's own bytes stay in the specification.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.companions import copy_companions
from paretune.compressors.loading import load_checkpoint, model_hash, told_by_transformers
from paretune.spaces.architectures.quantized import QUANTIZATION_KEYS
from paretune.spaces.errors import ModelError
from paretune.spaces.files import CONFIGURATION, read_object, write_json, written_whole
from paretune.spaces.model import ModelSpec
from paretune.spaces.numerals import quantity

_REMEDY = "Start from the unquantized checkpoint that it was made from"


def dense_folder(source: Path, spec: ModelSpec, place: Path) -> Path:
    """The folder of the dense model; ``source`` itself where it ships as it is.

    It takes the memory of the whole model while it is written, and its bytes in ``place``.

    Args:
        source: the checkpoint.
        spec: of it.
        place: where the copy goes, under a name that says what it is of; one that is there is taken.

    Raises:
        ModelError: a method that cannot be expanded here, no room on the disk, or what ``transformers`` refuses.
    """
    if spec.shipped is None:
        return source
    refuse_unexpandable(spec)
    folder = place / f"dense-{model_hash(source)[:16]}"
    if folder.is_dir():
        return folder
    needed = spec.parameters * spec.dtype_bytes
    place.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(place).free) < needed:
        raise ModelError(
            f"the dense model of {spec.source}",
            f"takes {quantity(needed, 'B')}, and {quantity(free, 'B')} are free on the disk of {place}",
            "Choose another folder with --out",
        )
    model = _EXPANDED[spec.shipped.method](source, getattr(torch, spec.dtype))
    with written_whole(folder, ModelError) as partial:
        _write(model, source, spec, partial)
    return folder


def refuse_unexpandable(spec: ModelSpec) -> None:
    """Refuse a checkpoint whose method cannot be expanded here.

    Raises:
        ModelError: names the method.
    """
    if spec.shipped is None or spec.shipped.method in _EXPANDED:
        return
    raise ModelError(
        f"model folder {spec.source}",
        f"the model is already quantized with {spec.shipped.method}, which is not expanded here "
        f"({', '.join(_EXPANDED)} are)",
        _REMEDY,
    )


def _by_library(configuration: str) -> Callable[[Path, torch.dtype], Any]:
    """Expand by the class of ``transformers`` that is called so."""

    def load(folder: Path, dtype: torch.dtype) -> Any:
        import transformers

        return load_checkpoint(folder, dtype, expand=getattr(transformers, configuration)(dequantize=True))

    return load


def _by_bitsandbytes(folder: Path, dtype: torch.dtype) -> Any:
    model = load_checkpoint(folder, dtype)
    with told_by_transformers(folder):
        return model.dequantize(dtype)


_EXPANDED: Mapping[str, Callable[[Path, torch.dtype], Any]] = {
    "fp8": _by_library("FineGrainedFP8Config"),
    "mxfp4": _by_library("Mxfp4Config"),
    "compressed-tensors": load_checkpoint,
    "bitsandbytes": _by_bitsandbytes,
}


def _write(model: Any, source: Path, spec: ModelSpec, folder: Path) -> None:
    """The parameters of the specification, and buffers that a checkpoint of the plain model has."""
    from huggingface_hub import save_torch_state_dict

    found, dtype = dict(model.named_parameters(remove_duplicate=False)), getattr(torch, spec.dtype)
    tensors = {}
    for name, shape in spec.parameter_shapes.items():
        if name not in found or tuple(found[name].shape) != shape:
            raise ModelError(
                f"parameter {name} of {source}",
                f"does not expand to the shape {shape} that it must have",
                _REMEDY,
            )
        tensors[name] = found[name].data.to(dtype).contiguous()
    stored = {fixed.name for fixed in spec.fixed}
    tensors |= {name: buffer.contiguous() for name, buffer in model.named_buffers() if name in stored}
    save_torch_state_dict(tensors, folder, max_shard_size="4GB")
    values = read_object(source / "config.json", CONFIGURATION)
    for part in (values, values.get("text_config")):
        if isinstance(part, dict):
            for key in QUANTIZATION_KEYS:
                part.pop(key, None)
    write_json(folder / "config.json", values)
    copy_companions(source, folder)
