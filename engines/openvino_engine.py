"""``openvino``: the intermediate representation with integers of 4 and 8 bits a product, run by OpenVINO on a CPU."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from paretune.engines.graphs.graph_engine import GraphEngine
from paretune.engines.openvino.graph import FILE, OPTIONS, to_openvino
from paretune.engines.openvino.legality import OpenVinoLegality
from paretune.spaces.legality import Legality

_USE = (
    "```python",
    "import openvino",
    "",
    f'model = openvino.Core().compile_model("{FILE}", "CPU", {json.dumps(OPTIONS)})',
    "```",
    "",
    "Inputs: `input_ids`, `attention_mask`, `position_ids`, `beam_idx`; the cache is state of the model. Without these",
    "options the CPU plugin may compute in bfloat16 and round inputs to 8 bits: then it is another model.",
)


class OpenVino(GraphEngine):
    """See :class:`paretune.engines.graphs.graph_engine.GraphEngine`."""

    name = "openvino"
    writers = ("onnx", "onnxscript", "openvino")
    extra = "openvino"
    options = OPTIONS
    file = FILE
    tags = ("openvino", "openvino-ir")
    use = _USE
    packages = ("openvino", "onnx", "onnxscript", "torch", "transformers")

    def legality(self, device: str) -> Legality:
        """See :class:`paretune.engines.openvino.legality.OpenVinoLegality`."""
        return OpenVinoLegality(self.name, device)

    def numeric_path(self, device: str) -> str:
        """The same on every CPU, as long as the options of the card are given."""
        del device
        return "openvino: float32 products of codes expanded block by block, inputs not rounded; cache in float32"

    def finish(self, folder: Path) -> None:
        """See :func:`paretune.engines.openvino.graph.to_openvino`."""
        to_openvino(folder)

    def launch_line(self, folder: Path) -> str:
        """The model compiled as it was searched."""
        file = json.dumps(str(folder / FILE), ensure_ascii=False)
        program = (
            'import sys; sys.modules["openvino_telemetry"] = None; import openvino; '
            f'model = openvino.Core().compile_model({file}, "CPU", {json.dumps(OPTIONS)}); '
            "print(model.inputs)"
        )
        return f"python -c {shlex.quote(program)}"
