"""Formats that have a name of their own: what serving engines and papers call them.

A run file names them beside plain widths; each says which method makes it unless another is asked for.
"""

from __future__ import annotations

from spaces.errors import UnknownNameError
from spaces.formats import WeightFormat

FORMATS: dict[str, WeightFormat] = {
    "int8-channel": WeightFormat(num_bits=8, number_type="int"),
    "int8-tensor": WeightFormat(num_bits=8, number_type="int", block_rows=0),
    "fp8-channel": WeightFormat(num_bits=8),
    "fp8-block": WeightFormat(num_bits=8, group_size=128, block_rows=128),
    "nvfp4": WeightFormat(num_bits=4, group_size=16, scale="fp8"),
    "mxfp4": WeightFormat(num_bits=4, group_size=32, scale="exponent"),
    "mxfp8": WeightFormat(num_bits=8, group_size=32, scale="exponent"),
    "nf4": WeightFormat(
        num_bits=4, number_type="codebook", codebook="normal", group_size=64, scale="float32"
    ),
    **{
        f"kmeans{bits}": WeightFormat(num_bits=bits, number_type="codebook", codebook="row")
        for bits in (2, 3, 4)
    },
    **{
        f"learned{bits}": WeightFormat(num_bits=bits, number_type="codebook", codebook="site", group_size=128)
        for bits in (2, 3, 4)
    },
}


def find_format(name: str) -> WeightFormat:
    """The format called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return FORMATS[name]


def default_method(weight: WeightFormat) -> str:
    """The quantizer that makes a format where none is named: learned levels have one of their own."""
    return {"row": "kmeans", "site": "learned"}.get(weight.codebook, "rtn")
