"""Makes OpenVINO's representation of an ONNX file: codes stay codes, and the cache becomes state of the model.

Inputs and state are those that OpenVINO's own pipelines expect of a language model: ``beam_idx`` reorders the cache by
sequence, and the cache of a new sequence is empty. Source: the stateful models that optimum-intel documents.

A product with codes is written as OpenVINO's compressed models have it: one scale and zero point a group, of any length
(source of the pattern: what ``nncf.compress_weights`` 3.4 writes). It stands in for the ONNX frontend's own translation
of ``MatMulNBits``, which takes no zero points but literal ones: where a group is several blocks of the operator they
are repeated, and that is an expression. Here nothing is repeated.

The package is imported without its telemetry: importing it alone counts, names the machine and sends that. No variable
switches it off but those by which it recognises continuous integration; the package that sends is optional to OpenVINO,
which takes a stub where it cannot be imported (``openvino/tools/ovc/telemetry_utils.py``, 2026.4).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from paretune.engines.graphs.onnx_graph.names import FILE as ONNX_FILE
from paretune.engines.graphs.onnx_graph.names import PAST, PRESENT
from paretune.spaces.errors import EngineError

_SENDER = "openvino_telemetry"


def silent_openvino() -> Any:
    """The package ``openvino``, which sends nothing unless something else imported it before us.

    Afterwards other packages find what sends as they would have: it is theirs to ask.
    """
    # A name that maps to None is one that cannot be imported; mypy's stubs know modules only.
    loaded = cast(dict[str, Any], sys.modules)
    before = {_SENDER: loaded[_SENDER]} if _SENDER in loaded else {}
    loaded[_SENDER] = None
    try:
        import openvino
    finally:
        del loaded[_SENDER]
        loaded.update(before)
    return openvino


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


FILE = "openvino_model.xml"
OPTIONS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
}
"""Of the compiled model: without them the CPU plugin takes bfloat16 where it is fast, and rounds inputs to 8 bits."""


def to_openvino(folder: Path) -> None:
    """Put the representation in the place of the ONNX file in ``folder``."""
    openvino = silent_openvino()
    model = read_graph(folder / ONNX_FILE)
    _remember(model)
    for name, value in OPTIONS.items():
        model.set_rt_info(value, ["runtime_options", name])
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)
    del model  # it maps the file that is deleted
    for file in folder.glob(f"{ONNX_FILE}*"):
        file.unlink()


def _remember(model: Any) -> None:
    """Turn keys and values from inputs and outputs into state."""
    from openvino import Type, opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    past = [found for found in model.inputs if found.any_name.startswith(f"{PAST}.")]
    order = opset13.parameter([-1], Type.i32, name="beam_idx")
    order.output(0).get_tensor().add_names({"beam_idx"})
    for found in past:
        readers = found.get_target_inputs()
        ordered = opset13.gather(found, order, opset13.constant(0, Type.i64)).output(0)
        for reader in readers:
            reader.replace_source_output(ordered)
    names = {found.any_name: found.any_name.replace(PAST, PRESENT) for found in past}
    shapes = {found.any_name: found.partial_shape for found in past}
    model.add_parameters([order])
    apply_make_stateful_transformation(model, names)
    _start_empty(model, shapes)
    model.validate_nodes_and_infer_types()


def _start_empty(model: Any, shapes: dict[str, Any]) -> None:
    """The state of a new sequence: no token, for as many sequences as are asked for."""
    from openvino import Type, opset13

    ids = model.input("input_ids")
    batch = opset13.gather(
        opset13.shape_of(ids), opset13.constant([0], Type.i64), opset13.constant(0, Type.i64)
    )
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            variable = node.get_attributes()["variable_id"]
            shape = next(shape for name, shape in shapes.items() if variable.startswith(name))
            extents = opset13.constant([shape[1].get_length(), 0, shape[3].get_length()], Type.i64)
            whole = opset13.concat([batch, extents], axis=0)
            node.set_arguments([opset13.broadcast(opset13.constant(0.0, Type.f32), whole)])
