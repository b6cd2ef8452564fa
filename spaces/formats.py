"""Number formats of weights.

The vocabulary follows compressed-tensors' ``QuantizationArgs`` (num_bits, type, group_size, symmetric,
actorder, block structure); the bytes follow its containers, whose layouts are documented in
:mod:`paretune.spaces.containers`. Formats that have a name of their own are in :mod:`paretune.spaces.named_formats`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from paretune.spaces.containers import StoredBytes, container_bytes
from paretune.spaces.errors import FormatError
from paretune.spaces.ggml_types import GGML_TYPES
from paretune.spaces.schema import Frozen

NumberType = Literal["int", "float", "codebook", "ggml"]
ZeroPoint = Literal["none", "int", "float"]
ActivationOrder = Literal["none", "group", "weight"]
ScaleType = Literal["model", "float32", "fp8", "exponent"]
Codebook = Literal["none", "normal", "row", "layer"]

FLOAT_WIDTHS = (4, 8, 16, 32)
"""E2M1, E4M3, and what checkpoints hold."""


class WeightFormat(Frozen):
    """How the weights of one linear are stored.

    Attributes:
        num_bits: width of one code; 16 or 32 with ``number_type="float"`` is unquantized.
        number_type: what a code means: a whole number, a floating-point number (E2M1 at 4 bits, E4M3 at 8), a
            place in a codebook, or whatever a block type of ggml says.
        group_size: consecutive weights of a row (the reduction axis) that share a scale; ``None`` is one
            scale a row ("channel").
        symmetric: no zero point; codes lie in ``[-2^(b-1), 2^(b-1) - 1]``.
        zero_point: type of the stored zero point, ``"none"`` exactly when symmetric.
        actorder: order of columns in a GPTQ-like method, as in compressed-tensors.
        block_rows: rows that share the scales of their groups; 1 except for two-dimensional blocks, 0 for all rows
            (with ``group_size=None``: one scale a matrix, "tensor").
        scale: type of a stored scale: the model's, ``float32``, ``fp8`` (E4M3 under one float32 factor a matrix, as
            in NVFP4), or ``exponent`` (E8M0, a power of two, as in the Microscaling formats).
        codebook: ``normal``: the fixed quantiles of NF4; ``row``: levels of its own for every row, without scales;
            ``layer``: levels that the whole matrix shares, under scales.
        ggml: name of the block type (:mod:`paretune.spaces.ggml_types`); it fixes everything else but ``num_bits``.
    """

    num_bits: int = 16
    number_type: NumberType = "float"
    group_size: int | None = None
    symmetric: bool = True
    zero_point: ZeroPoint = "none"
    actorder: ActivationOrder = "none"
    # Left out of the JSON while plain, so that digests of integer configurations are what they always were.
    block_rows: int = Field(1, exclude_if=lambda value: value == 1)
    scale: ScaleType = Field("model", exclude_if=lambda value: value == "model")
    codebook: Codebook = Field("none", exclude_if=lambda value: value == "none")
    ggml: str = Field("", exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _consistent(self) -> WeightFormat:
        if self.number_type == "ggml" or self.ggml:
            self._check_ggml()
            return self
        self._check_width()
        if self.symmetric != (self.zero_point == "none"):
            raise FormatError(
                f"symmetric={self.symmetric}, zero_point={self.zero_point}",
                "a symmetric format has no zero point and an asymmetric one has one",
                "Set zero_point to 'none' or to 'int'",
            )
        if self.group_size is not None and self.group_size < 1:
            raise FormatError(f"group size {self.group_size}", "must be positive", "Use 32, 64 or 128")
        if self.block_rows < 0 or (self.block_rows == 0 and self.group_size is not None):
            raise FormatError(
                f"blocks of {self.block_rows} rows with group size {self.group_size}",
                "must have 1 row or more; 0 is one scale a matrix and has no groups",
                "Use 128 rows by groups of 128, or leave group_size out",
            )
        if self.number_type != "int":
            self._check_not_integer()
        if (self.number_type == "codebook") != (self.codebook != "none"):
            raise FormatError(
                f"{self.number_type} codes with codebook {self.codebook!r}",
                "codes of a codebook, and only they, name one",
                "Use 'normal', 'row' or 'layer' with number_type='codebook'",
            )
        return self

    def _check_ggml(self) -> None:
        if self.number_type != "ggml" or self.ggml not in GGML_TYPES:
            raise FormatError(
                f"{self.number_type} codes of ggml type {self.ggml!r}",
                f"codes of ggml, and only they, have one of its types ({', '.join(GGML_TYPES)})",
                "Name the format by its type, e.g. q4_k",
            )
        others = self.fields() | {"num_bits": GGML_TYPES[self.ggml].num_bits}
        plain = {name: field.default for name, field in type(self).model_fields.items()}
        if others != plain | {key: others[key] for key in ("num_bits", "number_type", "ggml")} or (
            self.num_bits != others["num_bits"]
        ):
            raise FormatError(
                f"ggml type {self.ggml} with other settings", "the type fixes them", "Leave them out"
            )

    def _check_width(self) -> None:
        if self.number_type != "float" and not 2 <= self.num_bits <= 8:
            raise FormatError(
                f"{self.num_bits} bits",
                f"{self.number_type} codes have 2 to 8 bits",
                "Use 2, 3, 4, 5, 6 or 8",
            )
        if self.number_type == "float" and self.num_bits not in FLOAT_WIDTHS:
            raise FormatError(
                f"float of {self.num_bits} bits",
                f"only {', '.join(map(str, FLOAT_WIDTHS))} are known here",
                "Use num_bits=16 or an int",
            )

    def _check_not_integer(self) -> None:
        if not self.symmetric or self.actorder != "none":
            raise FormatError(
                f"{self.number_type} codes with zero point {self.zero_point!r}, order {self.actorder!r}",
                "only integers have zero points and an order of columns",
                "Leave both out",
            )
        if self.codebook == "row" and self.group_size is not None:
            raise FormatError(
                f"a codebook a row with groups of {self.group_size}",
                "its levels are the weights' own numbers and have no scales",
                "Leave group_size out",
            )
        if self.codebook == "normal" and self.num_bits != 4:
            raise FormatError(
                f"normal quantiles of {self.num_bits} bits", "NF4 has 4 bits", "Use 4, or codebook 'layer'"
            )

    @cached_property
    def dense(self) -> bool:
        """Whether the weights are stored as they are."""
        return self.number_type == "float" and self.num_bits >= 16

    @property
    def whole_matrix(self) -> bool:
        """Whether something is shared by all rows, so that they must be seen together."""
        return self.scale == "fp8" or self.codebook == "layer" or self.block_rows == 0

    @property
    def name(self) -> str:
        """A short unambiguous name, e.g. ``16``, ``int4-g128``, ``int8-channel``, ``fp8-128x128``."""
        if self.dense:
            return str(self.num_bits)
        if self.ggml:
            return self.ggml
        if self.codebook == "row":
            return f"code{self.num_bits}-row"
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        if self.block_rows != 1:
            group = f"{self.block_rows}x{self.group_size or 'channel'}" if self.block_rows else "tensor"
        suffix = "" if self.symmetric else ("-asym" if self.zero_point == "int" else "-asymf")
        order = "" if self.actorder == "none" else f"-{self.actorder}"
        scale = "" if self.scale == "model" else f"-{_SCALE_NAMES[self.scale]}"
        return f"{self._number_name}{self.num_bits}-{group}{scale}{suffix}{order}"

    @property
    def _number_name(self) -> str:
        if self.number_type == "codebook":
            return {"normal": "nf", "layer": "level"}[self.codebook]
        return {"int": "int", "float": "fp"}[self.number_type]

    def groups(self, in_features: int) -> int:
        """How many scales a row of ``in_features`` weights has.

        Raises:
            FormatError: the group size does not divide the row.
        """
        if self.ggml:
            return self.blocks(in_features)
        if self.group_size is None:
            return 1
        if self.block_rows != 1:
            return -(-in_features // self.group_size)  # the last block may be smaller
        if in_features % self.group_size:
            raise FormatError(
                f"group size {self.group_size}",
                f"must divide the row length {in_features}",
                f"Use one of {', '.join(str(g) for g in _divisors(in_features))}, or one scale a channel",
            )
        return in_features // self.group_size

    def blocks(self, in_features: int) -> int:
        """How many blocks of its ggml type a row of ``in_features`` weights has.

        Raises:
            FormatError: blocks do not divide the row.
        """
        size = GGML_TYPES[self.ggml].block_weights
        if in_features % size:
            raise FormatError(
                f"ggml type {self.ggml}",
                f"has blocks of {size} weights, which do not divide a row of {in_features}",
                "Use a type with blocks of 32 (q8_0, q5_0, q4_0, iq4_nl), or leave the layer as it is",
            )
        return in_features // size

    def row_bytes(self, in_features: int) -> int:
        """Bytes of a row in its ggml type."""
        return self.blocks(in_features) * GGML_TYPES[self.ggml].block_bytes

    def scale_rows(self, out_features: int) -> int:
        """How many rows of scales ``out_features`` rows of weights have."""
        return -(-out_features // self.block_rows) if self.block_rows else 1

    def stored_bytes(self, shape: tuple[int, int], dtype_bytes: int = 2) -> StoredBytes:
        """Exact bytes of a ``(out_features, in_features)`` weight in its container.

        Args:
            shape: ``(out_features, in_features)``.
            dtype_bytes: bytes of one unquantized number and of one scale (2 for bf16 and fp16, 4 for fp32).
        """
        rows, columns = shape
        if self.dense:
            return StoredBytes(rows * columns * dtype_bytes, 0)
        return container_bytes(rows, columns, self, dtype_bytes)


_SCALE_NAMES = {"float32": "s32", "fp8": "s8", "exponent": "mx"}


def ggml_format(name: str) -> WeightFormat:
    """The format of a block type of ggml, e.g. ``q4_k``."""
    bits = GGML_TYPES[name].num_bits if name in GGML_TYPES else 8
    return WeightFormat(num_bits=bits, number_type="ggml", ggml=name)


DENSE = WeightFormat()
"""Weights as the model has them (16 bits; 32 where the checkpoint is fp32)."""


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
