"""Formats of weights and inputs in the words of compressed-tensors: containers, and ``QuantizationArgs``."""

from __future__ import annotations

from typing import Any

from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.formats import WeightFormat

PACKED, UNPACKED = "pack-quantized", "int-quantized"
_FLOATS = {
    (8, "model"): "float-quantized",
    (8, "exponent"): "mxfp8-quantized",
    (4, "exponent"): "mxfp4-pack-quantized",
    (4, "fp8"): "nvfp4-pack-quantized",
}


def container(weight: WeightFormat, unpacked: bool = False) -> str | None:
    """The container of a format that is not dense; ``None`` if compressed-tensors has none.

    Args:
        weight: the format.
        unpacked: whether 8-bit integers lie in place of the weight.
    """
    if weight.number_type == "int":
        return UNPACKED if unpacked else PACKED
    return _FLOATS.get((weight.num_bits, weight.scale)) if weight.number_type == "float" else None


def weight_arguments(weight: WeightFormat) -> dict[str, Any]:
    """The format as ``QuantizationArgs``."""
    values: dict[str, Any] = {
        "num_bits": weight.num_bits,
        "type": weight.number_type,
        "symmetric": weight.symmetric,
        "strategy": "channel" if weight.group_size is None else "group",
        "group_size": weight.group_size,
    }
    if weight.block_rows == 0:
        values["strategy"] = "tensor"
    elif weight.block_rows != 1:
        size = weight.group_size
        values |= {"strategy": "block", "group_size": None, "block_structure": [weight.block_rows, size]}
    if weight.scale == "fp8":
        values |= {"strategy": "tensor_group", "scale_dtype": "torch.float8_e4m3fn"}
    elif weight.scale == "exponent":
        values["scale_dtype"] = "torch.uint8"
    return values


def input_arguments(inputs: ActivationFormat) -> dict[str, Any]:
    """The format of a linear's input as ``QuantizationArgs``, without scales."""
    values: dict[str, Any] = {
        "num_bits": inputs.num_bits,
        "type": inputs.number_type,
        "symmetric": True,
        "strategy": inputs.strategy,
        "dynamic": inputs.dynamic,
    }
    if inputs.group_size is not None:
        values["group_size"] = inputs.group_size
    if inputs.scale == "fp8":
        values |= {"strategy": "tensor_group", "dynamic": "local", "scale_dtype": "torch.float8_e4m3fn"}
    elif inputs.scale == "exponent":
        values["scale_dtype"] = "torch.uint8"
    return values
