"""Formats of the inputs of linears.

The vocabulary follows compressed-tensors' ``QuantizationArgs``. Beside integers and E4M3 with plain scales there are
the inputs that go with the block formats of weights: NVFP4 (16 E2M1 numbers under an E4M3 scale, under one float32
factor), MXFP4 and MXFP8 (32 numbers under a power of two; OCP Microscaling specification 1.0, arXiv:2310.10537).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from paretune.spaces.errors import FormatError
from paretune.spaces.schema import Frozen

InputStrategy = Literal["token", "tensor", "group"]
InputScale = Literal["model", "fp8", "exponent"]
InputCodes = Literal["steps", "positive"]

_STANDARD_GROUPS = {"fp8": 16, "exponent": 32}


class ActivationFormat(Frozen):
    """How the input of a linear is rounded before the product, symmetrically.

    Attributes:
        num_bits: 8, or 4 for E2M1 under block scales; unquantized inputs are the absence of a format.
        number_type: ``int``, or ``float`` (E2M1 at 4 bits, E4M3 at 8).
        strategy: what shares a scale: a token (row of the input), the whole tensor, or a group of a token's features.
        group_size: consecutive features that share a scale; with ``group`` only.
        scale: type of a scale: the model's, ``fp8`` (E4M3 under a float32 factor for the tensor, which is calibrated:
            NVFP4), or ``exponent`` (E8M0, a power of two: MXFP4 and MXFP8).
        dynamic: whether the scale is computed from the input at run time; if not, it is calibrated.
        codes: what the largest magnitude of dynamic integers becomes: half of ``2^8 - 1`` steps, as compressed-tensors
            says (``steps``), or the largest code, 127, as kernels of vLLM compute it (``positive``).
    """

    num_bits: Literal[4, 8] = 8
    number_type: Literal["int", "float"] = "int"
    strategy: InputStrategy = "token"
    dynamic: bool = True
    # Left out of the JSON while plain, so that digests of older configurations are what they always were.
    group_size: int | None = Field(None, exclude_if=lambda value: value is None)
    scale: InputScale = Field("model", exclude_if=lambda value: value == "model")
    codes: InputCodes = Field("steps", exclude_if=lambda value: value == "steps")

    @model_validator(mode="after")
    def _consistent(self) -> ActivationFormat:
        self._check_groups()
        if not self.dynamic and self.strategy != "tensor":
            raise FormatError(
                f"a static scale by {self.strategy}",
                "tokens and their groups are not known before run time",
                "Use strategy='tensor', or dynamic=True",
            )
        if self.num_bits == 4 and (self.number_type != "float" or self.scale == "model"):
            raise FormatError(
                f"4-bit {self.number_type} inputs with scale {self.scale!r}",
                "4-bit inputs are E2M1 under block scales: NVFP4 ('fp8') or MXFP4 ('exponent')",
                "Use 8 bits, or number_type='float' in groups with one of these scales",
            )
        if self.codes == "positive" and not (self.number_type == "int" and self.dynamic):
            raise FormatError(
                f"codes 'positive' of {'dynamic' if self.dynamic else 'static'} {self.number_type} inputs",
                "a matter of scales of integers that are computed at run time",
                "Leave codes out",
            )
        if self.scale != "model":
            self._check_block_scale()
        return self

    def _check_groups(self) -> None:
        if (self.strategy == "group") != (self.group_size is not None):
            raise FormatError(
                f"strategy {self.strategy!r} with group size {self.group_size}",
                "groups, and only they, have a size",
                "Give strategy='group' and a group_size, or neither",
            )
        if self.group_size is not None and self.group_size < 1:
            raise FormatError(f"group size {self.group_size}", "must be positive", "Use 128")

    def _check_block_scale(self) -> None:
        size = _STANDARD_GROUPS[self.scale]
        if self.number_type != "float" or self.group_size != size:
            raise FormatError(
                f"scale {self.scale!r} of {self.number_type} inputs in groups of {self.group_size}",
                f"its standard has floats in groups of {size}",
                f"Use number_type='float', strategy='group', group_size={size}, or scale='model'",
            )
        if self.scale == "fp8" and self.num_bits != 4:
            raise FormatError(
                f"scale 'fp8' of {self.num_bits}-bit inputs",
                "NVFP4 has 4 bits",
                "Use num_bits=4, or scale 'model' or 'exponent'",
            )

    @property
    def name(self) -> str:
        """``a8-token``, ``a8f-g128``, ``a4f-g16-fp8``, ``a8f-tensor-static`` and so on."""
        number = f"a{self.num_bits}{'f' if self.number_type == 'float' else ''}"
        shared = self.strategy if self.group_size is None else f"g{self.group_size}"
        scale = "" if self.scale == "model" else f"-{self.scale}"
        codes = "" if self.codes == "steps" else "-127"
        return f"{number}-{shared}{scale}{codes}{'' if self.dynamic else '-static'}"

    @property
    def calibrated(self) -> bool:
        """Whether a number is taken from calibration: the static scale, or the factor over E4M3 scales."""
        return not self.dynamic or self.scale == "fp8"

    def scales(self, in_features: int) -> int:
        """How many scales a token of ``in_features`` features has; a whole tensor's is counted as its one.

        Raises:
            FormatError: the group size does not divide the row.
        """
        if self.group_size is None:
            return 1
        if in_features % self.group_size:
            raise FormatError(
                f"input format {self.name}",
                f"groups of {self.group_size} must divide the {in_features} features",
                "Use a format by token or by tensor there",
            )
        return in_features // self.group_size
