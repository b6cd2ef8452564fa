"""Number formats of weights.

The vocabulary follows compressed-tensors' ``QuantizationArgs`` (num_bits, type, group_size, symmetric,
actorder); the bytes follow its ``pack-quantized`` container, whose layout is documented in
:func:`packed_bytes`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import model_validator

from spaces.errors import FormatError
from spaces.schema import Frozen

NumberType = Literal["int", "float"]
ZeroPoint = Literal["none", "int", "float"]
ActivationOrder = Literal["none", "group", "weight"]


class StoredBytes(NamedTuple):
    """Bytes of one stored tensor: what carries information, and what the container adds."""

    payload: int
    """Codes, scales, zero points, indices: what ``average_bits`` counts."""
    overhead: int
    """Shape records and the like: part of the file, not of ``average_bits``."""

    @property
    def total(self) -> int:
        """Everything that the export writes for this tensor."""
        return self.payload + self.overhead


class WeightFormat(Frozen):
    """How the weights of one linear are stored.

    Attributes:
        num_bits: width of one code; 16 or 32 with ``number_type="float"`` is unquantized.
        number_type: what a code means.
        group_size: consecutive weights of a row (the reduction axis) that share a scale; ``None`` is one
            scale a row ("channel").
        symmetric: no zero point; codes lie in ``[-2^(b-1), 2^(b-1) - 1]``.
        zero_point: type of the stored zero point, ``"none"`` exactly when symmetric.
        actorder: order of columns in a GPTQ-like method, as in compressed-tensors.
    """

    num_bits: int = 16
    number_type: NumberType = "float"
    group_size: int | None = None
    symmetric: bool = True
    zero_point: ZeroPoint = "none"
    actorder: ActivationOrder = "none"

    @model_validator(mode="after")
    def _consistent(self) -> WeightFormat:
        if self.number_type == "int" and not 2 <= self.num_bits <= 8:
            raise FormatError(
                f"{self.num_bits} bits", "an integer format has 2 to 8 bits", "Use 2, 3, 4, 5, 6 or 8"
            )
        if self.number_type == "float" and self.num_bits not in (16, 32):
            raise FormatError(
                f"float of {self.num_bits} bits", "only 16 and 32 are known here", "Use num_bits=16 or an int"
            )
        if self.symmetric != (self.zero_point == "none"):
            raise FormatError(
                f"symmetric={self.symmetric}, zero_point={self.zero_point}",
                "a symmetric format has no zero point and an asymmetric one has one",
                "Set zero_point to 'none' or to 'int'",
            )
        if self.group_size is not None and self.group_size < 1:
            raise FormatError(f"group size {self.group_size}", "must be positive", "Use 32, 64 or 128")
        return self

    @property
    def dense(self) -> bool:
        """Whether the weights are stored as they are."""
        return self.number_type == "float"

    @property
    def name(self) -> str:
        """A short unambiguous name, e.g. ``16``, ``int4-g128``, ``int8-channel``, ``int4-g64-asym``."""
        if self.dense:
            return str(self.num_bits)
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        suffix = "" if self.symmetric else ("-asym" if self.zero_point == "int" else "-asymf")
        order = "" if self.actorder == "none" else f"-{self.actorder}"
        return f"int{self.num_bits}-{group}{suffix}{order}"

    def groups(self, in_features: int) -> int:
        """How many scales a row of ``in_features`` weights has.

        Raises:
            FormatError: the group size does not divide the row.
        """
        if self.group_size is None:
            return 1
        if in_features % self.group_size:
            raise FormatError(
                f"group size {self.group_size}",
                f"must divide the row length {in_features}",
                f"Use one of {', '.join(str(g) for g in _divisors(in_features))}, or one scale a channel",
            )
        return in_features // self.group_size

    def stored_bytes(self, shape: tuple[int, int], dtype_bytes: int = 2) -> StoredBytes:
        """Exact bytes of a ``(out_features, in_features)`` weight in the compressed-tensors container.

        Args:
            shape: ``(out_features, in_features)``.
            dtype_bytes: bytes of one unquantized number and of one scale (2 for bf16 and fp16, 4 for fp32).
        """
        rows, columns = shape
        if self.dense:
            return StoredBytes(rows * columns * dtype_bytes, 0)
        return packed_bytes(rows, columns, self, dtype_bytes)


DENSE = WeightFormat()
"""Weights as the model has them (16 bits; 32 where the checkpoint is fp32)."""


def packed_bytes(rows: int, columns: int, weight: WeightFormat, dtype_bytes: int) -> StoredBytes:
    """Bytes of ``pack-quantized`` (compressed-tensors 0.19 and newer).

    ======================  =======================================  =====
    tensor                  shape                                    dtype
    ======================  =======================================  =====
    ``weight_packed``       ``(rows, ceil(columns * bits / 32))``    int32
    ``weight_scale``        ``(rows, groups)``                       model
    ``weight_zero_point``   ``(ceil(rows * bits / 32), groups)``     int32, asymmetric only
    ``weight_shape``        ``(2,)``                                 int64
    ======================  =======================================  =====
    """
    groups = weight.groups(columns)
    payload = rows * -(-columns * weight.num_bits // 32) * 4 + rows * groups * dtype_bytes
    if weight.zero_point == "int":
        payload += -(-rows * weight.num_bits // 32) * 4 * groups
    elif weight.zero_point == "float":
        payload += rows * groups * dtype_bytes
    return StoredBytes(payload, 16)


def unpacked_bytes(
    rows: int, columns: int, weight: WeightFormat, dtype_bytes: int, owners: int = 1
) -> StoredBytes:
    """Bytes of ``int-quantized`` (compressed-tensors): 8-bit codes, a byte each, in place of the weight.

    =====================  ==================  =====
    tensor                 shape               dtype
    =====================  ==================  =====
    ``weight``             ``(rows, columns)`` int8
    ``weight_scale``       ``(rows, groups)``  model
    ``weight_zero_point``  ``(rows, groups)``  int8, asymmetric only
    =====================  ==================  =====

    Args:
        rows, columns: of the weight.
        weight: its format.
        dtype_bytes: of one scale.
        owners: modules that share the codes; each has scales and zero points of its own.
    """
    groups = weight.groups(columns)
    per_group = dtype_bytes + (0 if weight.symmetric else 1)
    return StoredBytes(rows * columns + owners * rows * groups * per_group, 0)


def integer_format(num_bits: int, group_size: int | None = 128, symmetric: bool = True) -> WeightFormat:
    """The uniform integer format of ``num_bits``, with an integer zero point when asymmetric."""
    return WeightFormat(
        num_bits=num_bits,
        number_type="int",
        group_size=group_size,
        symmetric=symmetric,
        zero_point="none" if symmetric else "int",
    )


def _divisors(number: int) -> list[int]:
    return [g for g in (16, 32, 64, 96, 128, 192, 256, 512) if number % g == 0] or [number]
