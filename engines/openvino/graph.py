"""Makes OpenVINO's representation of an ONNX file: codes stay codes, and the cache becomes state of the model.

Inputs and state are those that OpenVINO's own pipelines expect of a language model: ``beam_idx`` reorders the cache by
sequence, and the cache of a new sequence is empty. Source: the stateful models that optimum-intel documents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.engines.graphs.onnx_graph.names import FILE as ONNX_FILE
from paretune.engines.graphs.onnx_graph.names import PAST, PRESENT
from paretune.engines.openvino.package import silent_openvino
from paretune.engines.openvino.product import read_graph

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
