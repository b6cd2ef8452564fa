"""``openvino``: the intermediate representation with integers of 4 and 8 bits a product, run by OpenVINO on a CPU."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from engines.graph_engine import GraphEngine
from engines.openvino_graph import FILE, OPTIONS, to_openvino

if TYPE_CHECKING:
    from engines.graph_export import GraphForm

_USE = (
    "```python",
    "import openvino",
    "",
    f'model = openvino.Core().compile_model("{FILE}", "CPU", {OPTIONS})',
    "```",
    "",
    "Inputs: `input_ids`, `attention_mask`, `position_ids`, `beam_idx`; the cache is state of the model. Without these",
    "options the CPU plugin may compute in bfloat16 and round inputs to 8 bits: then it is another model.",
)


class OpenVino(GraphEngine):
    """See :class:`engines.graph_engine.GraphEngine`."""

    name = "openvino"
    writers = ("onnx", "onnxscript", "openvino")
    extra = "openvino"
    options = OPTIONS

    def numeric_path(self, device: str) -> str:
        """The same on every CPU, as long as the options of the card are given."""
        del device
        return "openvino: float32 products of codes expanded block by block, inputs not rounded; cache in float32"

    def form(self) -> GraphForm:
        """Topology and weights, the cache as state."""
        from engines.graph_export import GraphForm

        packages = ("openvino", "onnx", "onnxscript", "torch", "transformers")
        return GraphForm(self.name, FILE, ("openvino", "openvino-ir"), _USE, packages, to_openvino)

    def launch_line(self, folder: Path) -> str:
        """The model compiled as it was searched."""
        program = (
            "import openvino; "
            f"model = openvino.Core().compile_model({str(folder / FILE)!r}, 'CPU', {OPTIONS}); "
            "print(model.inputs)"
        )
        return f"python -c {shlex.quote(program)}"
