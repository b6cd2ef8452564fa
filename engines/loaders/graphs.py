"""Loads a graph with a cache in ONNX Runtime or OpenVINO: see :mod:`paretune.engines.runner`."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

import numpy as np

Job = dict[str, Any]


class OnnxRuntimeModel:
    """A session of ONNX Runtime: the cache goes in and comes out."""

    def __init__(self, job: Job, tokens: int) -> None:
        # Read when the first session starts, which sends before the call that switches the rest off can be made.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        del tokens
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            job["model"], options, providers=["CPUExecutionProvider"]
        )
        inputs = {found.name: found for found in self._session.get_inputs()}
        self._plain = [name for name in inputs if not name.startswith("past_key_values.")]
        self._empty = {
            name: np.zeros((1, found.shape[1], 0, found.shape[3]), np.float32)
            for name, found in inputs.items()
            if name not in self._plain
        }
        self._outputs = [found.name for found in self._session.get_outputs()]
        self.clear()

    def clear(self) -> None:
        """Forget the sequence."""
        self._past, self._seen = self._empty, 0

    def logits(self, ids: np.ndarray, every: bool = True) -> np.ndarray:
        """Logits after each of ``ids``, ``(tokens, vocabulary)``."""
        del every
        given = _graph_inputs(ids, self._seen)
        found = self._session.run(None, {**{name: given[name] for name in self._plain}, **self._past})
        self._seen += len(ids)
        named = dict(zip(self._outputs, found, strict=True))
        self._past = {name: named[name.replace("past_key_values", "present")] for name in self._empty}
        logits: np.ndarray = named["logits"][0]
        return logits


class OpenVinoModel:
    """A model compiled by OpenVINO: the cache is its state; ``options`` are the plugin's."""

    def __init__(self, job: Job, tokens: int) -> None:
        # Its import alone sends statistics; where the package that sends cannot be imported it takes a stub.
        cast(dict[str, Any], sys.modules)["openvino_telemetry"] = None
        import openvino

        del tokens
        asked = {**job["options"], "INFERENCE_NUM_THREADS": str(job["threads"])}
        model = openvino.Core().compile_model(job["model"], "CPU", asked)
        self._names = {name for found in model.inputs for name in found.names}
        self._request = model.create_infer_request()
        self.clear()

    def clear(self) -> None:
        """Forget the sequence."""
        self._request.reset_state()
        self._seen = 0

    def logits(self, ids: np.ndarray, every: bool = True) -> np.ndarray:
        """Logits after each of ``ids``, ``(tokens, vocabulary)``."""
        del every
        given = {**_graph_inputs(ids, self._seen), "beam_idx": np.zeros(1, np.int32)}
        found = self._request.infer({name: value for name, value in given.items() if name in self._names})
        self._seen += len(ids)
        logits: np.ndarray = found["logits"][0].copy()
        return logits


def _graph_inputs(ids: np.ndarray, seen: int) -> dict[str, np.ndarray]:
    end = seen + len(ids)
    return {
        "input_ids": ids[None].astype(np.int64),
        "attention_mask": np.ones((1, end), np.int64),
        "position_ids": np.arange(seen, end, dtype=np.int64)[None],
    }


def load(job: Job, tokens: int) -> OnnxRuntimeModel | OpenVinoModel:
    """The graph of a job, by its file's kind."""
    return (OpenVinoModel if job["model"].endswith(".xml") else OnnxRuntimeModel)(job, tokens)
