"""Block types of ggml, the number formats of llama.cpp: so many weights of a row in so many bytes.

Source of the sizes: ``gguf.constants.GGML_QUANT_SIZES`` of gguf 0.19, which a test holds this table against.
"""

from __future__ import annotations

from typing import NamedTuple


class GgmlType(NamedTuple):
    """One type.

    Attributes:
        number: in ggml's enumeration.
        num_bits: of a code, without scales.
        block_weights: consecutive weights of a row in a block; it must divide the row.
        block_bytes: of a block, scales and minima included.
        needs_importance: whether ggml's quantizer refuses to work without the importance of input channels.
    """

    number: int
    num_bits: int
    block_weights: int
    block_bytes: int
    needs_importance: bool = False


GGML_TYPES: dict[str, GgmlType] = {
    "q4_0": GgmlType(2, 4, 32, 18),
    "q4_1": GgmlType(3, 4, 32, 20),
    "q5_0": GgmlType(6, 5, 32, 22),
    "q5_1": GgmlType(7, 5, 32, 24),
    "q8_0": GgmlType(8, 8, 32, 34),
    "q2_k": GgmlType(10, 2, 256, 84),
    "q3_k": GgmlType(11, 3, 256, 110),
    "q4_k": GgmlType(12, 4, 256, 144),
    "q5_k": GgmlType(13, 5, 256, 176),
    "q6_k": GgmlType(14, 6, 256, 210),
    "iq2_xxs": GgmlType(16, 2, 256, 66, needs_importance=True),
    "iq2_xs": GgmlType(17, 2, 256, 74, needs_importance=True),
    "iq3_xxs": GgmlType(18, 3, 256, 98),
    "iq1_s": GgmlType(19, 1, 256, 50, needs_importance=True),
    "iq4_nl": GgmlType(20, 4, 32, 18),
    "iq3_s": GgmlType(21, 3, 256, 110),
    "iq2_s": GgmlType(22, 2, 256, 82),
    "iq4_xs": GgmlType(23, 4, 256, 136),
    "iq1_m": GgmlType(29, 1, 256, 56),
}
"""By ggml's lower-case name."""

FLOAT_TYPES: dict[str, int] = {"f32": 0, "f16": 1, "bf16": 30}
"""Numbers of the types that hold weights as they are."""
