"""Formats of the inputs of linears."""

from __future__ import annotations

from typing import Literal

from spaces.formats import NumberType
from spaces.schema import Frozen


class ActivationFormat(Frozen):
    """How the input of a linear is rounded before the product.

    Attributes:
        num_bits: 8; unquantized inputs are the absence of a format.
        strategy: what shares a scale: a token (row of the input) or the whole tensor.
        dynamic: whether the scale is computed from the input at run time.
    """

    num_bits: Literal[8] = 8
    number_type: NumberType = "int"
    strategy: Literal["token", "tensor"] = "token"
    dynamic: bool = True

    @property
    def name(self) -> str:
        """``a8-token`` and so on."""
        return f"a{self.num_bits}-{self.strategy}{'' if self.dynamic else '-static'}"
