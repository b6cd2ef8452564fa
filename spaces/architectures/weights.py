"""Whether the weight files of a model folder are all there, whole, unquantized and those of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from pathlib import Path

from paretune.spaces.architectures.description import Dtype
from paretune.spaces.architectures.headers import StoredTensor, present_files, read_header, weight_files
from paretune.spaces.architectures.quantized import find_quantization
from paretune.spaces.errors import ModelError
from paretune.spaces.files import CONFIGURATION, read_object
from paretune.spaces.model import ModelSpec

_PACKED = {
    "weight_packed": "compressed-tensors",
    "weight_scale": "compressed-tensors",
    "weight_scale_inv": "FP8 by blocks",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
}
_DTYPES: dict[str, Dtype] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
BLOCK_INDEX = re.compile(r"(?<=\.)\d+(?=\.)")
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|position_ids|(attn|attention)\.bias)$")


def check_weights(folder: Path, spec: ModelSpec | None = None) -> tuple[StoredTensor, ...]:
    """Every tensor of the checkpoint, after a look at each file's presence, length and number types.

    Args:
        folder: holds ``model.safetensors``, or shards and their index.
        spec: the model that the weights have to be of; ``None`` leaves that question out.

    Raises:
        ModelError: an index names a file that is absent or outside the folder, a file is cut short, there are
            no safetensors at all, the tensors are quantized, or they are not those of ``spec``.
    """
    # A folder that it was expanded to holds what any other does.
    if spec is not None and spec.shipped is not None and _says_quantized(folder):
        raise ModelError(
            f"model folder {folder}",
            f"the model is already quantized with {spec.shipped.method}",
            "Start from the unquantized checkpoint that it was made from",
        )
    tensors = tuple(tensor for file in weight_files(folder) for tensor in read_header(file))
    refuse_packed(tensors)
    if spec is not None:
        _check_against(folder, spec, tensors)
    return tensors


def _says_quantized(folder: Path) -> bool:
    return find_quantization(folder, read_object(folder / "config.json", CONFIGURATION)) is not None


def refuse_packed(tensors: Iterable[StoredTensor]) -> None:
    """Refuse a checkpoint whose tensors are codes of a quantization method.

    Raises:
        ModelError: names the method and the tensor.
    """
    for tensor in tensors:
        method = _PACKED.get(tensor.name.rpartition(".")[2])
        if method is None and tensor.dtype not in (*_DTYPES, "F64") and not is_buffer(tensor):
            method = f"codes of type {tensor.dtype}"
        if method is not None:
            raise ModelError(
                f"tensor {tensor.name} in {tensor.file}",
                f"the model is already quantized ({method})",
                "Start from the unquantized checkpoint that it was made from",
            )


def is_buffer(tensor: StoredTensor) -> bool:
    """Whether a tensor is a constant that old checkpoints carry and ``transformers`` computes itself."""
    found = _BUFFERS.search(tensor.name)
    return found is not None and (not found.group().endswith(".bias") or len(tensor.shape) == 4)


def stored_dtype(folder: Path) -> Dtype | None:
    """The type that most bytes of the checkpoint have; ``None`` where no weights are present."""
    size = dict.fromkeys(_DTYPES, 0)
    for file in present_files(folder):
        for tensor in read_header(file):
            if tensor.dtype in size and not is_buffer(tensor):
                size[tensor.dtype] += tensor.size_bytes
    most = max(size, key=lambda name: size[name])
    return _DTYPES[most] if size[most] else None


def _check_against(folder: Path, spec: ModelSpec, tensors: tuple[StoredTensor, ...]) -> None:
    """Shapes where names agree; what is absent by name must be there under a name of another layout."""
    expected = spec.parameter_shapes
    for tensor in tensors:
        wanted = expected.get(tensor.name)
        if wanted is not None and wanted != tensor.shape:
            raise ModelError(
                f"tensor {tensor.name} in {tensor.file}",
                f"has shape {tensor.shape}, config.json promises {wanted}",
                "Use config.json and weights of the same model",
            )
    names = {tensor.name for tensor in tensors}
    missing = [name for name in expected if name not in names]
    known = {*expected, spec.head.parameter, spec.embedding.parameter}
    other = sum(prod(t.shape) for t in tensors if t.name not in known and not _foreign(t, spec))
    absent = sum(prod(expected[name]) for name in missing)
    if other < absent:
        raise ModelError(
            f"weights in {folder}",
            f"lack {absent - other:,} numbers of {spec.parameters:,} ({missing[0]} is absent)",
            "Use the complete weights of the same model",
        )
    _refuse_more_blocks(spec, tensors)
    _refuse_mixed([tensor for tensor in tensors if tensor.name in expected])


def _refuse_more_blocks(spec: ModelSpec, tensors: tuple[StoredTensor, ...]) -> None:
    """Refuse weights of more blocks than ``config.json`` counts: the model would be another, with its end cut off.

    A head that predicts further tokens (DeepSeek, GLM) lies behind the last block and has tensors that no block has.
    """
    known = {BLOCK_INDEX.sub("*", name) for name in spec.parameter_shapes}
    beyond: dict[int, list[StoredTensor]] = {}
    for tensor in tensors:
        if (block := _beyond(tensor, spec)) is not None and not is_buffer(tensor):
            beyond.setdefault(block, []).append(tensor)
    for found in beyond.values():
        if all(BLOCK_INDEX.sub("*", tensor.name) in known for tensor in found):
            raise ModelError(
                f"tensor {found[0].name} in {found[0].file}",
                f"is of one block more than config.json counts ({spec.blocks})",
                "Use config.json and weights of the same model",
            )


def _foreign(tensor: StoredTensor, spec: ModelSpec) -> bool:
    """Whether a tensor can stand for none of the model's: a buffer, or of a block that the model does not have."""
    return is_buffer(tensor) or _beyond(tensor, spec) is not None


def _beyond(tensor: StoredTensor, spec: ModelSpec) -> int | None:
    """The block that a tensor is of, where the model does not have it."""
    found = re.match(rf"{re.escape(spec.block_path)}\.(\d+)\.", tensor.name)
    return int(found[1]) if found is not None and int(found[1]) >= spec.blocks else None


def _refuse_mixed(tensors: list[StoredTensor]) -> None:
    """Refuse parameters of several types: bytes are counted, and exports written, in the one that most have.

    Merges of adapters leave norms and heads in float32 behind.
    """
    size = dict.fromkeys((tensor.dtype for tensor in tensors), 0)
    for tensor in tensors:
        size[tensor.dtype] += tensor.size_bytes
    usual = max(size, key=lambda dtype: size[dtype], default="")
    other = next((tensor for tensor in tensors if tensor.dtype != usual), None)
    if other is not None:
        raise ModelError(
            f"tensor {other.name} in {other.file}",
            f"is stored as {other.dtype}, most of the model as {usual}",
            "Save the model in one type: AutoModelForCausalLM.from_pretrained(..., dtype=...).save_pretrained(...)",
        )
