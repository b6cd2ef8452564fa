"""``onnxruntime``: a graph with a cache, integers of 4 and 8 bits a node, run by ONNX Runtime on a CPU."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from engines.graph_engine import GraphEngine
from engines.onnx_graph.names import FILE

if TYPE_CHECKING:
    from engines.graph_export import GraphForm

_USE = (
    "```python",
    "import onnxruntime",
    "",
    f'session = onnxruntime.InferenceSession("{FILE}", providers=["CPUExecutionProvider"])',
    "```",
    "",
    "Inputs: `input_ids`, `attention_mask`, `position_ids`, and keys and values of every layer, empty at first",
    "(`past_key_values.N.key`); outputs: `logits` and the keys and values to hand in next (`present.N.key`).",
)


class OnnxRuntime(GraphEngine):
    """See :class:`engines.graph_engine.GraphEngine`."""

    name = "onnxruntime"
    writers = ("onnx", "onnxscript")
    extra = "onnx"

    def numeric_path(self, device: str) -> str:
        """The same on every CPU."""
        del device
        return "onnxruntime: float32 products of codes expanded block by block; cache in float32"

    def form(self) -> GraphForm:
        """An ONNX file, its weights beside it."""
        from engines.graph_export import GraphForm

        packages = ("onnx", "onnxscript", "torch", "transformers")
        return GraphForm(self.name, FILE, ("onnx", "onnxruntime"), _USE, packages)

    def launch_line(self, folder: Path) -> str:
        """A session on the CPU; whoever generates hands the cache from step to step."""
        program = (
            "import onnxruntime; onnxruntime.disable_telemetry_events(); "
            f"session = onnxruntime.InferenceSession({str(folder / FILE)!r}, "
            "providers=['CPUExecutionProvider']); print([i.name for i in session.get_inputs()])"
        )
        return f"python -c {shlex.quote(program)}"
