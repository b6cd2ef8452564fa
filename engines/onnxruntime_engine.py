"""``onnxruntime``: a graph with a cache, integers of 4 and 8 bits a node, run by ONNX Runtime on a CPU."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from paretune.engines.graphs.graph_engine import GraphEngine
from paretune.engines.graphs.onnx_graph.names import FILE

_SILENT = "ORT_DISABLE_TELEMETRY=1"
"""Its wheels send statistics from the first session on; the call that switches them off comes after the first of them.

Source: ``Privacy.md`` in the package, 1.31.
"""

_USE = (
    "```python",
    "import onnxruntime",
    "",
    f'session = onnxruntime.InferenceSession("{FILE}", providers=["CPUExecutionProvider"])',
    "```",
    "",
    "Inputs: `input_ids`, `attention_mask`, `position_ids`, and keys and values of every layer, empty at first",
    "(`past_key_values.N.key`); outputs: `logits` and the keys and values to hand in next (`present.N.key`).",
    f"`{_SILENT}` in the environment keeps ONNX Runtime from sending usage statistics.",
)


class OnnxRuntime(GraphEngine):
    """See :class:`paretune.engines.graphs.graph_engine.GraphEngine`."""

    name = "onnxruntime"
    writers = ("onnx", "onnxscript")
    extra = "onnx"
    file = FILE
    tags = ("onnx", "onnxruntime")
    use = _USE
    packages = ("onnx", "onnxscript", "torch", "transformers")

    def numeric_path(self, device: str) -> str:
        """The same on every CPU."""
        del device
        return "onnxruntime: float32 products of codes expanded block by block; cache in float32"

    def launch_line(self, folder: Path) -> str:
        """A session on the CPU; whoever generates hands the cache from step to step."""
        file = json.dumps(str(folder / FILE), ensure_ascii=False)
        program = (
            "import onnxruntime; "
            f'session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"]); '
            "print([given.name for given in session.get_inputs()])"
        )
        return f"{_SILENT} python -c {shlex.quote(program)}"
