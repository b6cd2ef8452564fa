"""Generations of devices as vLLM tells them apart, and the formats that each really executes.

Source: ``get_min_capability`` of the schemes in ``vllm/model_executor/layers/quantization/compressed_tensors`` and the
kernels that they choose, vLLM 0.26 to 0.32. Data sheets of devices are another matter (``profiles.devices``).
"""

from __future__ import annotations

import re
from typing import Literal

from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.errors import UnknownNameError
from paretune.spaces.formats import WeightFormat

Generation = Literal["cpu", "ampere", "ada", "hopper", "blackwell"]

CAPABILITIES: dict[Generation, int] = {"ampere": 80, "ada": 89, "hopper": 90, "blackwell": 100}
"""Compute capabilities of GPUs; what vLLM's checks say of 8.6 and 12.0 is what they say of 8.0 and 10.0."""

_NAMES: tuple[tuple[str, Generation], ...] = (
    (r"x86|cpu", "cpu"),
    (r"a(?:2|10|16|30|40|100|800)|(?:rtx-?)?a\d{3,4}|rtx-?30[5-9]0", "ampere"),
    (r"l(?:4|20|40)|rtx-?40[5-9]0|rtx-?\d{3,4}(?:-sff)?-?ada", "ada"),
    (r"h(?:20|100|200|800)|gh200", "hopper"),
    (r"g?b[123]00", "blackwell"),
)
"""How a device's name begins, in small letters with hyphens between words; no digit follows. What comes after names a
build (``h100-sxm``), and builds of a card execute the same formats. Quadro RTX 4000 (Turing) and RTX 4000 Ada are
cards of different generations, so a number without the words around it says nothing."""
_MAKER = re.compile(r"^(?:(?:nvidia|geforce|tesla|grid)-)+")
_USUAL = (
    "x86",
    "a10",
    "a100",
    "a6000",
    "rtx-3090",
    "l4",
    "l40s",
    "rtx-4090",
    "rtx-6000-ada",
    "h100",
    "h200",
    "b200",
)
"""Names that a refusal shows."""

_INT8 = "int8 w8a8, dynamic inputs by their largest magnitude / 127"
_FP8 = "fp8 w8a8, weights expanded"
_EXPERTS = "int8 w8a8 of experts as w8a16"
_PATHS: dict[Generation, str] = {
    "cpu": f"float32; {_INT8}; {_FP8}",
    "ampere": f"int2-8 w*a16; {_INT8}; {_EXPERTS}; fp8 w8a8 as w8a16; nvfp4, mxfp4 and mxfp8 as w*a16",
    "ada": f"int2-8 w*a16; {_INT8}; {_EXPERTS}; fp8 w8a8; nvfp4, mxfp4 and mxfp8 as w*a16",
    "hopper": f"int2-8 w*a16; {_INT8}; {_EXPERTS}; fp8 w8a8; nvfp4, mxfp4 and mxfp8 as w*a16",
    "blackwell": f"int2-8 w*a16; {_EXPERTS}; fp8 w8a8; nvfp4 as stored; mxfp4 as w4a4",
}

_NATIVE: dict[Generation, tuple[str, ...]] = {
    "cpu": ("w8a8-dynamic",),
    "ampere": ("w8a8-dynamic",),
    "ada": ("fp8-dynamic", "w8a8-dynamic"),
    "hopper": ("fp8-dynamic", "w8a8-dynamic"),
    "blackwell": ("fp8-dynamic", "nvfp4-a4", "mxfp4-a4"),
}

_MXFP4_INPUTS = ActivationFormat(
    num_bits=4, number_type="float", strategy="group", group_size=32, scale="exponent"
)


def generation(device: str) -> Generation:
    """The generation of a device by its name: one of ours, or what its driver calls it.

    Raises:
        UnknownNameError: no rules are known for it.
    """
    return _recognised(device)[0]


def usual_name(card: str) -> str:
    """A card's name without its maker and build: ``rtx-3090`` for ``NVIDIA GeForce RTX 3090``.

    Raises:
        UnknownNameError: no rules are known for it.
    """
    return _recognised(card)[1]


def _recognised(device: str) -> tuple[Generation, str]:
    """The generation, and the part of the name that says so."""
    name = _MAKER.sub("", re.sub(r"[\s_-]+", "-", device.strip().lower()))
    for begins, found in _NAMES:
        if fitting := re.match(rf"(?:{begins})(?!\d)", name):
            return found, fitting.group()
    raise UnknownNameError("device of vLLM", device, _USUAL)


def executed_path(device: str) -> str:
    """The formats as executed on the device, in words; scores are keyed by it."""
    where = generation(device)
    dtype = "" if where == "cpu" else "bf16; "
    return f"vllm on {where}: {dtype}{_PATHS[where]}"


def executed(choice: LayerChoice, device: str, *, experts: bool = False) -> LayerChoice:
    """The choice as the device computes it: inputs that no kernel there rounds are left alone.

    A candidate is scored as it will run: before Ada, FP8 weights are expanded beside 16-bit inputs (Marlin); before
    Blackwell, NVFP4, MXFP4 and MXFP8 weights are; on Blackwell, the inputs of MXFP4 weights are rounded whatever the
    checkpoint says. The largest magnitude of dynamic integers becomes 127 (``dynamic_scaled_int8_quant``; seen in the
    CPU build), where compressed-tensors has 127.5. INT8 codes of experts are multiplied with 16-bit inputs on a GPU:
    ``make_int8_moe_quant_config`` (``fused_moe/oracle/int8.py``, 0.26) makes W8A16 of experts without static scales,
    and others are refused.

    Args:
        choice: of a layer.
        device: by name.
        experts: whether it is one of experts.
    """
    where, weight, inputs = generation(device), choice.weight, choice.activation
    if experts and where != "cpu" and inputs is not None and inputs.number_type == "int":
        return choice.model_copy(update={"activation": None})
    if inputs is not None and inputs.number_type == "int" and inputs.dynamic:
        return choice.model_copy(update={"activation": inputs.model_copy(update={"codes": "positive"})})
    if where == "cpu" or weight.dense or weight.number_type != "float":
        return choice
    if is_mxfp4(weight) and where == "blackwell":
        return choice.model_copy(update={"activation": _MXFP4_INPUTS})
    plain = weight.num_bits == 8 and not is_mxfp8(weight)
    dropped = where == "ampere" if plain else where != "blackwell"
    return choice.model_copy(update={"activation": None}) if dropped else choice


def native_formats(device: str) -> tuple[str, ...]:
    """Named formats whose products the device computes in their own width: codes of weights times codes of inputs."""
    return _NATIVE[generation(device)]


def is_nvfp4(weight: WeightFormat) -> bool:
    """E2M1 in groups of 16 under E4M3 scales."""
    return weight.number_type == "float" and weight.num_bits == 4 and weight.scale == "fp8"


def is_mxfp4(weight: WeightFormat) -> bool:
    """E2M1 in groups of 32 under powers of two."""
    return weight.number_type == "float" and weight.num_bits == 4 and weight.scale == "exponent"


def is_mxfp8(weight: WeightFormat) -> bool:
    """E4M3 in groups of 32 under powers of two."""
    return weight.number_type == "float" and weight.num_bits == 8 and weight.scale == "exponent"
