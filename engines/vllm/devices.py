"""Generations of devices as vLLM tells them apart, and the formats that each really executes.

Source: ``get_min_capability`` of the schemes in ``vllm/model_executor/layers/quantization/compressed_tensors`` and the
kernels that they choose, vLLM 0.26 to 0.32. Data sheets of devices are another matter (``profiles.devices``).
"""

from __future__ import annotations

from typing import Literal

from spaces.activation_format import ActivationFormat
from spaces.choice import SiteChoice
from spaces.errors import UnknownNameError
from spaces.formats import WeightFormat

Generation = Literal["cpu", "ampere", "ada", "hopper", "blackwell"]

_PREFIXES: dict[str, Generation] = {
    "x86": "cpu",
    "cpu": "cpu",
    "a100": "ampere",
    "a30": "ampere",
    "a10": "ampere",
    "a40": "ampere",
    "a6000": "ampere",
    "rtx30": "ampere",
    "l4": "ada",
    "l40": "ada",
    "rtx40": "ada",
    "40": "ada",
    "h100": "hopper",
    "h200": "hopper",
    "h20": "hopper",
    "gh200": "hopper",
    "b100": "blackwell",
    "b200": "blackwell",
    "b300": "blackwell",
    "gb200": "blackwell",
}
"""By how a device's name begins, without hyphens: builds of a card (``h100-sxm``) execute the same formats."""

_INT8 = "int8 w8a8, dynamic inputs by their largest magnitude / 127"
_PATHS: dict[Generation, str] = {
    "cpu": f"float32; {_INT8}",
    "ampere": f"int2-8 w*a16; {_INT8}; fp8 w8a8 as w8a16; nvfp4 and mxfp4 as w4a16",
    "ada": f"int2-8 w*a16; {_INT8}; fp8 w8a8; nvfp4 and mxfp4 as w4a16",
    "hopper": f"int2-8 w*a16; {_INT8}; fp8 w8a8; nvfp4 and mxfp4 as w4a16",
    "blackwell": "int2-8 w*a16; fp8 w8a8; nvfp4 as stored; mxfp4 as w4a4",
}

_MXFP4_INPUTS = ActivationFormat(
    num_bits=4, number_type="float", strategy="group", group_size=32, scale="exponent"
)


def generation(device: str) -> Generation:
    """The generation of a device by its name.

    Raises:
        UnknownNameError: no rules are known for it.
    """
    name = device.strip().lower().replace("-", "").replace("_", "").replace(" ", "")
    fitting = [prefix for prefix in _PREFIXES if name.startswith(prefix)]
    if not fitting:
        raise UnknownNameError("device of vLLM", device, _PREFIXES)
    return _PREFIXES[max(fitting, key=len)]


def executed_path(device: str) -> str:
    """The formats as executed on the device, in words; scores are keyed by it."""
    where = generation(device)
    dtype = "" if where == "cpu" else "bf16; "
    return f"vllm on {where}: {dtype}{_PATHS[where]}"


def executed(choice: SiteChoice, device: str) -> SiteChoice:
    """The choice as the device computes it: inputs that no kernel there rounds are left alone.

    A candidate is scored as it will run: before Ada, FP8 weights are expanded beside 16-bit inputs (Marlin); before
    Blackwell, NVFP4 and MXFP4 weights are; on Blackwell, the inputs of MXFP4 weights are rounded whatever the
    checkpoint says. The largest magnitude of dynamic integers becomes 127 (``dynamic_scaled_int8_quant``; seen in the
    CPU build), where compressed-tensors has 127.5.
    """
    where, weight, inputs = generation(device), choice.weight, choice.activation
    if inputs is not None and inputs.number_type == "int" and inputs.dynamic:
        return choice.model_copy(update={"activation": inputs.model_copy(update={"codes": "positive"})})
    if where == "cpu" or weight.dense or weight.number_type != "float":
        return choice
    if is_mxfp4(weight) and where == "blackwell":
        return choice.model_copy(update={"activation": _MXFP4_INPUTS})
    dropped = where == "ampere" if weight.num_bits == 8 else where != "blackwell"
    return choice.model_copy(update={"activation": None}) if dropped else choice


def is_nvfp4(weight: WeightFormat) -> bool:
    """E2M1 in groups of 16 under E4M3 scales."""
    return weight.number_type == "float" and weight.num_bits == 4 and weight.scale == "fp8"


def is_mxfp4(weight: WeightFormat) -> bool:
    """E2M1 in groups of 32 under powers of two."""
    return weight.number_type == "float" and weight.num_bits == 4 and weight.scale == "exponent"
