"""Runs a graph in ONNX Runtime or OpenVINO: ``python engines/graphs/runner.py REQUEST.json``.

It stands alone and needs numpy.

A request has ``engine``, ``model``, ``threads``, ``task`` and ``answer`` (file that the answer, a JSON object, is
written to), and by task:

* ``predict``: ``ids`` (``.npy``, int64 ``(windows, tokens)``), ``out`` (``.npy``: float32 log-probabilities
  ``(windows, tokens, vocabulary)``; with ``top``, ``(windows, tokens, top)`` and the tokens in ``out_ids``).
* ``time``: ``prompt_tokens``, ``output_tokens``, ``repetitions``: seconds of each repetition.
* ``generate``: ``prompt_ids``, ``output_tokens``: greedy tokens.

``options`` are handed to OpenVINO's plugin.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np


class OnnxRuntimeDecoder:
    """A session of ONNX Runtime: the cache goes in and comes out.

    Args:
        file: of the model.
        threads: that compute.
    """

    def __init__(self, file: str, threads: int) -> None:
        # Read when the first session starts, which sends before the call that switches the rest off can be made.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        inputs = {found.name: found for found in self._session.get_inputs()}
        self._plain = [name for name in inputs if not name.startswith("past_key_values.")]
        self._empty = {
            name: np.zeros((1, found.shape[1], 0, found.shape[3]), np.float32)
            for name, found in inputs.items()
            if name not in self._plain
        }
        self._outputs = [found.name for found in self._session.get_outputs()]
        self._past = self._empty
        self._seen = 0

    def clear(self) -> None:
        """Forget the sequence."""
        self._past, self._seen = self._empty, 0

    def run(self, ids: np.ndarray) -> np.ndarray:
        """Logits ``(tokens, vocabulary)`` after each of ``ids``, which follow what was run before."""
        end = self._seen + len(ids)
        given = {
            "input_ids": ids[None].astype(np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self._seen, end, dtype=np.int64)[None],
        }
        found = self._session.run(None, {**{name: given[name] for name in self._plain}, **self._past})
        self._seen = end
        named = dict(zip(self._outputs, found, strict=True))
        self._past = {name: named[name.replace("past_key_values", "present")] for name in self._empty}
        logits: np.ndarray = named["logits"][0]
        return logits


class OpenVinoDecoder:
    """A model compiled by OpenVINO: the cache is its state.

    Args:
        file: of the model.
        threads: that compute.
        options: of the plugin.
    """

    def __init__(self, file: str, threads: int, options: dict[str, str]) -> None:
        # Its import alone sends statistics; where the package that sends cannot be imported it takes a stub.
        cast(dict[str, Any], sys.modules)["openvino_telemetry"] = None
        import openvino

        asked = {**options, "INFERENCE_NUM_THREADS": str(threads)}
        model = openvino.Core().compile_model(file, "CPU", asked)
        self._names = {name for found in model.inputs for name in found.names}
        self._request = model.create_infer_request()
        self.clear()

    def clear(self) -> None:
        """Forget the sequence."""
        self._request.reset_state()
        self._seen = 0

    def run(self, ids: np.ndarray) -> np.ndarray:
        """Logits ``(tokens, vocabulary)`` after each of ``ids``, which follow what was run before."""
        end = self._seen + len(ids)
        given = {
            "input_ids": ids[None].astype(np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self._seen, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        found = self._request.infer({name: value for name, value in given.items() if name in self._names})
        self._seen = end
        logits: np.ndarray = found["logits"][0].copy()
        return logits


Decoder = OnnxRuntimeDecoder | OpenVinoDecoder


def opened(request: dict[str, Any]) -> Decoder:
    """The model of a request."""
    if request["engine"] == "openvino":
        return OpenVinoDecoder(request["model"], request["threads"], request.get("options", {}))
    return OnnxRuntimeDecoder(request["model"], request["threads"])


def predict(request: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities of the next token at every position."""
    ids = np.load(request["ids"], allow_pickle=False)
    model = opened(request)
    out = named = None
    for index, window in enumerate(ids):
        model.clear()
        found = log_softmax(model.run(window))
        vocabulary = found.shape[-1]
        top = min(request.get("top") or vocabulary, vocabulary)
        if out is None:
            shape = (*ids.shape, top)
            out = np.lib.format.open_memmap(request["out"], mode="w+", dtype=np.float32, shape=shape)
            if top < vocabulary:
                named = np.lib.format.open_memmap(request["out_ids"], mode="w+", dtype=np.int64, shape=shape)
        if named is not None:
            best = np.argpartition(-found, top - 1, axis=-1)[:, :top]
            named[index], found = best, np.take_along_axis(found, best, axis=-1)
        out[index] = found
    return {"windows": len(ids)}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, along the last axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds to the first token and of each further one, by repetition; the first, which warms up, is left out."""
    prompt, output = request["prompt_tokens"], request["output_tokens"]
    model = opened(request)
    ids = np.random.default_rng(0).integers(0, model.run(np.zeros(1, np.int64)).shape[-1], prompt)
    first, further = [], []
    for _ in range(request["repetitions"] + 1):
        model.clear()
        start = time.perf_counter()
        token = int(model.run(ids)[-1].argmax())
        told = time.perf_counter()
        for _ in range(output - 1):
            token = int(model.run(np.array([token]))[-1].argmax())
        further.append((time.perf_counter() - told) / max(1, output - 1))
        first.append(told - start)
    return {"ttft_s": first[1:], "tpot_s": further[1:]}


def generate(request: dict[str, Any]) -> dict[str, Any]:
    """The greedy continuation of tokens."""
    model = opened(request)
    found = [int(model.run(np.array(request["prompt_ids"]))[-1].argmax())]
    while len(found) < request["output_tokens"]:
        found.append(int(model.run(np.array(found[-1:]))[-1].argmax()))
    return {"ids": found}


_TASKS = {"predict": predict, "time": measure, "generate": generate}


def main(file: Path) -> None:
    """Do what the request says and write the answer."""
    request = json.loads(file.read_text(encoding="utf-8"))
    answer = _TASKS[request["task"]](request)
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
