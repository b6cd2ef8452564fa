"""A product with codes as OpenVINO's compressed models write it: one scale and zero point a group, of any length.

Stands in for the ONNX frontend's own translation of ``MatMulNBits``, which takes no zero points but literal ones: where
a group is several blocks of the operator they are repeated, and that is an expression. Here nothing is repeated.
Source of the pattern: what ``nncf.compress_weights`` 3.4 writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paretune.engines.openvino.package import silent_openvino
from paretune.spaces.errors import EngineError

_FLOATS = ("bf16", "f16", "f32")


def read_graph(file: Path) -> Any:
    """The model in an ONNX file of ours.

    Raises:
        EngineError: OpenVINO has no translation of one of its operations.
    """
    core = silent_openvino().Core()
    from openvino.frontend.onnx import ConversionExtension

    core.add_extension(ConversionExtension("MatMulNBits", "com.microsoft", _product))
    try:
        return core.read_model(file)
    except RuntimeError as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        raise EngineError(
            "the model", f"cannot be read by OpenVINO ({said[-1][:300]})", "Choose another engine"
        ) from error


def _product(node: Any) -> list[Any]:
    """``(..., k)`` times the transpose of the expanded ``(n, k)`` weight."""
    from openvino import opset13

    bits, columns, rows = (int(node.get_attribute(name)) for name in ("bits", "K", "N"))
    scales = _source(node.get_input(2), _FLOATS, rows)
    groups = scales.get_shape()[1]
    zeros = _middle(bits)
    if node.get_input_size() > 3:
        zeros = _zeros(_source(node.get_input(3), ("u8",), rows), bits, groups)
    codes = _integers(node.get_input(1), bits, [rows, groups, columns // groups])
    weight = opset13.subtract(opset13.convert(codes, "f32"), zeros)
    weight = opset13.multiply(weight, opset13.unsqueeze(opset13.convert(scales, "f32"), _axes(2)))
    weight = opset13.reshape(weight, _axes(rows, columns), special_zero=False)
    return list(opset13.matmul(node.get_input(0), weight, False, True).outputs())


def _middle(bits: int) -> Any:
    """The zero point of codes that have none of their own, float32 ``(1,)``."""
    from openvino import Type, opset13

    return opset13.convert(opset13.constant([1 << (bits - 1)], Type.u4 if bits == 4 else Type.u8), "f32")


def _zeros(packed: Any, bits: int, groups: int) -> Any:
    """Zero points of every group, float32 ``(rows, groups, 1)``."""
    from openvino import opset13

    rows, wide = packed.get_shape()
    held = wide * 8 // bits  # an odd number of halves of a byte has one more beside it
    zeros = _integers(packed, bits, [rows, held])
    if held != groups:
        zeros = opset13.slice(zeros, _axes(0), _axes(groups), _axes(1), _axes(1))
    return opset13.convert(opset13.unsqueeze(zeros, _axes(2)), "f32")


def _integers(packed: Any, bits: int, shape: list[int]) -> Any:
    """Bytes of a constant as integers of 4 or 8 bits, low half first: a tied table stays one constant at 8 bits."""
    from openvino import Shape, Tensor, Type, op, opset13

    if bits == 4:
        halves = Tensor(packed.get_node().data, Shape(shape), Type.u4)
        return op.Constant(halves, shared_memory=False).output(0)
    same = list(packed.get_shape()) == shape
    return packed if same else opset13.reshape(packed, _axes(*shape), special_zero=False).output(0)


def _source(operand: Any, types: tuple[str, ...], rows: int) -> Any:
    """The stored matrix that an operand is made of by casts and repetition."""
    for found in _above(operand):
        shape, stored = found.get_partial_shape(), found.get_node().get_type_name() == "Constant"
        kind = found.get_element_type().get_type_name()
        if stored and kind in types and shape.rank.get_length() == 2 and shape[0].get_length() == rows:
            return found
    raise EngineError("a product of the graph", f"is not made of a constant of {rows} rows", "Report this")


def _above(operand: Any) -> Iterator[Any]:
    """The output and all that it is computed from."""
    waiting, seen = [operand], set()
    while waiting:
        found = waiting.pop()
        if found.get_node().get_friendly_name() not in seen:
            seen.add(found.get_node().get_friendly_name())
            yield found
            waiting += [given.get_source_output() for given in found.get_node().inputs()]


def _axes(*values: int) -> Any:
    from openvino import Type, opset13

    return opset13.constant(list(values), Type.i64)
