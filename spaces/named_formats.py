"""Formats that have a name of their own: what serving engines and papers call them.

A run file names them beside plain widths. ``NAME/METHOD`` asks for another quantizer than the usual one.
"""

from __future__ import annotations

from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.errors import UnknownNameError
from paretune.spaces.formats import WeightFormat, ggml_format
from paretune.spaces.ggml_types import GGML_TYPES

_INT8 = WeightFormat(num_bits=8, number_type="int")
_FP8 = WeightFormat(num_bits=8)
_FP8_BLOCK = WeightFormat(num_bits=8, group_size=128, block_rows=128)
_NVFP4 = WeightFormat(num_bits=4, group_size=16, scale="fp8")
_MXFP4 = WeightFormat(num_bits=4, group_size=32, scale="exponent")
_MXFP8 = WeightFormat(num_bits=8, group_size=32, scale="exponent")
_WIDTHS = (2, 3, 4)


def _inputs(num_bits: int, group_size: int, scale: str = "model") -> ActivationFormat:
    values = {"num_bits": num_bits, "number_type": "float", "strategy": "group"}
    return ActivationFormat.model_validate({**values, "group_size": group_size, "scale": scale})


WEIGHT_FORMATS: dict[str, WeightFormat] = {
    "int8-channel": _INT8,
    "int8-tensor": WeightFormat(num_bits=8, number_type="int", block_rows=0),
    "fp8-channel": _FP8,
    "fp8-tensor": WeightFormat(num_bits=8, block_rows=0),
    "fp8-block": _FP8_BLOCK,
    "nvfp4": _NVFP4,
    "mxfp4": _MXFP4,
    "mxfp8": _MXFP8,
    "nf4": WeightFormat(
        num_bits=4, number_type="codebook", codebook="normal", group_size=64, scale="float32"
    ),
    **{f"kmeans{b}": WeightFormat(num_bits=b, number_type="codebook", codebook="row") for b in _WIDTHS},
    **{
        f"learned{b}": WeightFormat(num_bits=b, number_type="codebook", codebook="layer", group_size=128)
        for b in _WIDTHS
    },
}
"""Weights alone; inputs stay in 16 bits."""

GGML_FORMATS: dict[str, WeightFormat] = {name: ggml_format(name) for name in GGML_TYPES}
"""What llama.cpp runs, by ggml's own quantizer."""

WITH_INPUTS: dict[str, tuple[WeightFormat, ActivationFormat]] = {
    "w8a8-dynamic": (_INT8, ActivationFormat()),
    "w8a8-static": (_INT8, ActivationFormat(strategy="tensor", dynamic=False)),
    "fp8-dynamic": (_FP8, ActivationFormat(number_type="float")),
    "fp8-static": (
        WEIGHT_FORMATS["fp8-tensor"],
        ActivationFormat(number_type="float", strategy="tensor", dynamic=False),
    ),
    "fp8-block-dynamic": (_FP8_BLOCK, _inputs(8, 128)),
    "nvfp4-a4": (_NVFP4, _inputs(4, 16, "fp8")),
    "mxfp4-a4": (_MXFP4, _inputs(4, 32, "exponent")),
    "mxfp8-a8": (_MXFP8, _inputs(8, 32, "exponent")),
}
"""Weights and inputs."""


def find_choice(name: str) -> LayerChoice:
    """What ``NAME`` or ``NAME/METHOD`` makes of a layer.

    Raises:
        UnknownNameError: no format is called so.
    """
    name, _, method = name.partition("/")
    known = [*WEIGHT_FORMATS, *WITH_INPUTS, *GGML_FORMATS]
    if name not in known:
        raise UnknownNameError("format", name, known)
    weight, activation = WITH_INPUTS.get(name) or ({**WEIGHT_FORMATS, **GGML_FORMATS}[name], None)
    return LayerChoice(weight=weight, activation=activation, method=method or default_method(weight))


def name_of(choice: LayerChoice) -> str:
    """What the format of a choice is called, whatever made it; empty where it has no name of its own."""
    alone = {name: (weight, None) for name, weight in {**WEIGHT_FORMATS, **GGML_FORMATS}.items()}
    found = (choice.weight, choice.activation)
    return next((name for name, named in {**WITH_INPUTS, **alone}.items() if named == found), "")


def default_method(weight: WeightFormat) -> str:
    """The quantizer that makes a format where none is named: learned levels and ggml's types have their own."""
    if weight.ggml:
        return "ggml-importance" if GGML_TYPES[weight.ggml].needs_importance else "ggml"
    return {"row": "kmeans", "layer": "learned"}.get(weight.codebook, "rtn")
