"""Bytes of a quantized weight as compressed-tensors 0.19 and newer stores it, tensor by tensor.

One function a container; :func:`container_bytes` knows which container a format goes into. Codebooks have no
container there: they are counted as their codes, scales and levels. Block types of ggml are counted
as GGUF stores them, and integers of a graph (ONNX, OpenVINO's IR) as its operations take them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from paretune.spaces.formats import WeightFormat

Container = Literal["compressed-tensors", "graph", "bitsandbytes", "gptq", "awq"]
"""What holds quantized weights: a checkpoint beside the program, the graph that is the program, or another form of
checkpoint (:mod:`paretune.spaces.form_bytes`)."""


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


_SCALE_BYTES = {"float32": 4, "fp8": 1, "exponent": 1}
_FACTOR_BYTES = 4
"""The float32 factor that E4M3 scales stand under, once a matrix."""


def container_bytes(rows: int, columns: int, weight: WeightFormat, dtype_bytes: int) -> StoredBytes:
    """Bytes of a ``(rows, columns)`` weight that is not dense."""
    if weight.number_type == "ggml":
        return StoredBytes(rows * weight.row_bytes(columns), 0)
    if weight.number_type == "int":
        return packed_bytes(rows, columns, weight, dtype_bytes)
    if weight.number_type == "float":
        return float_bytes(rows, columns, weight, dtype_bytes)
    return codebook_bytes(rows, columns, weight, dtype_bytes)


def float_bytes(rows: int, columns: int, weight: WeightFormat, dtype_bytes: int) -> StoredBytes:
    """Bytes of ``float-quantized``, ``nvfp4-pack-quantized``, ``mxfp4-pack-quantized`` and ``mxfp8-quantized``.

    ========================================  =============================  =======================
    tensor                                    shape                          dtype
    ========================================  =============================  =======================
    ``weight`` (8 bits)                       ``(rows, columns)``            float8_e4m3fn
    ``weight_packed`` (4 bits)                ``(rows, columns / 2)``        uint8
    ``weight_scale``                          ``(scale rows, groups)``       model, E4M3 or uint8
    ``weight_global_scale`` (E4M3 scales)     ``(1,)``                       float32
    ========================================  =============================  =======================
    """
    scales = weight.scale_rows(rows) * weight.groups(columns) * _SCALE_BYTES.get(weight.scale, dtype_bytes)
    factor = _FACTOR_BYTES if weight.scale == "fp8" else 0
    return StoredBytes(rows * -(-columns * weight.num_bits // 8) + scales + factor, 0)


def codebook_bytes(rows: int, columns: int, weight: WeightFormat, dtype_bytes: int) -> StoredBytes:
    """Codes, scales, and learned levels in the model's dtype; the quantiles of NF4 are a constant of the format."""
    codes = rows * -(-columns * weight.num_bits // 8)
    levels = {"normal": 0, "row": rows, "layer": 1}[weight.codebook] * dtype_bytes << weight.num_bits
    if weight.codebook == "row":
        return StoredBytes(codes + levels, 0)
    scales = rows * weight.groups(columns) * _SCALE_BYTES.get(weight.scale, dtype_bytes)
    return StoredBytes(codes + levels + scales, 0)


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
    scale_rows = weight.scale_rows(rows)
    payload = rows * -(-columns * weight.num_bits // 32) * 4 + scale_rows * groups * dtype_bytes
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
    ``weight_scale``       ``(rows, groups)``  model (one number where a matrix has one scale)
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
    scale_rows = weight.scale_rows(rows)
    return StoredBytes(rows * columns + owners * scale_rows * groups * per_group, 0)


def graph_bytes(rows: int, columns: int, weight: WeightFormat, dtype_bytes: int) -> StoredBytes:
    """Bytes of integers of 4 or 8 bits as constants of a graph (``MatMulNBits`` of ONNX Runtime takes them so).

    ===========  ========================================  =====
    tensor       shape                                     dtype
    ===========  ========================================  =====
    codes        ``(rows, groups, group size * bits / 8)``  uint8
    scales       ``(rows, groups)``                        model
    zero points  ``(rows, ceil(groups * bits / 8))``       uint8, asymmetric only
    ===========  ========================================  =====
    """
    groups = weight.groups(columns)
    payload = rows * (columns * weight.num_bits // 8 + groups * dtype_bytes)
    if not weight.symmetric:
        payload += rows * -(-groups * weight.num_bits // 8)
    return StoredBytes(payload, 0)
