"""Loads exports in their engine: ``python engines/runner.py REQUEST.json``. Needs numpy and what the loader imports.

It is started by path in the interpreter that has the engine, and imports nothing of ours. The request is a JSON object:
``loader`` (a file of :mod:`paretune.engines.loaders`), ``threads`` (that compute), ``device`` (``cpu`` or ``gpu``),
``jobs``, and ``answer``, the file that gets ``{"answers": [...], "versions": {...}}``. Jobs are done one after the
other in this process; one that fails is answered by ``{"error": ...}``. A job has ``model`` (what the engine loads),
``options`` (of its loader) and by ``task``:

* ``predict``: ``ids`` (``.npy``, int64 ``(windows, tokens)``), ``out`` (``.npy``: float32 log-probabilities of the next
  token at every position, ``(windows, tokens, vocabulary)``; with ``top``, ``(windows, tokens, top)`` of the likeliest
  tokens, which go to ``out_ids``).
* ``time``: ``prompt_tokens``, ``output_tokens``, ``repetitions``: seconds to the first token and of each further one.
* ``generate``: ``prompt`` or ``prompt_ids``, ``context``, ``output_tokens``: the greedy continuation.

A loader has ``load(job, tokens)``, the model with room for so many tokens. It has ``logits(ids, every)``:
``(tokens, vocabulary)`` after each of ``ids``, which follow what was run before (or after the last of them alone), and
``clear()``, which forgets the sequence; or ``predictions(ids, top)`` of its own. It may have ``tokenize`` and ``text``.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]
Answer = dict[str, Any]


_LINK = "For further information visit"
"""How pydantic ends an error whose reason stands in the line before."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, along the last axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def predictions(
    model: Any, ids: np.ndarray, top: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Log-probabilities ``(tokens, k)`` of every window and whose they are; ``None``: of all, in their order."""
    if hasattr(model, "predictions"):
        yield from model.predictions(ids, top)
        return
    for window in ids:
        model.clear()
        found = log_softmax(model.logits(window, True))
        if top is None or top >= found.shape[-1]:
            yield found, None
            continue
        best = np.argpartition(-found, top - 1, axis=-1)[:, :top]
        yield np.take_along_axis(found, best, axis=-1), best


def predict(loader: Any, job: Job) -> Answer:
    """Write log-probabilities of the next token at every position."""
    ids = np.load(job["ids"], allow_pickle=False)
    model = loader.load(job, ids.shape[1])
    out = named = None
    for index, (values, tokens) in enumerate(predictions(model, ids, job.get("top"))):
        if out is None:
            shape = (*ids.shape, values.shape[-1])
            out = np.lib.format.open_memmap(job["out"], mode="w+", dtype=np.float32, shape=shape)
            if tokens is not None:
                named = np.lib.format.open_memmap(job["out_ids"], mode="w+", dtype=np.int64, shape=shape)
        out[index] = values
        if named is not None:
            named[index] = tokens
    return {"windows": len(ids)}


def next_token(model: Any, ids: Any) -> int:
    """The likeliest token after ``ids``, which follow what was run before."""
    return int(model.logits(np.asarray(ids), False)[-1].argmax())


def measure(loader: Any, job: Job) -> Answer:
    """Seconds to the first token and of each further one, by repetition; the first, which warms up, is left out."""
    prompt, output = job["prompt_tokens"], job["output_tokens"]
    model = loader.load(job, prompt + output)
    vocabulary = model.logits(np.zeros(1, np.int64), False).shape[-1]
    ids = np.random.default_rng(0).integers(0, vocabulary, prompt)
    first, further = [], []
    for _ in range(job["repetitions"] + 1):
        model.clear()
        start = time.perf_counter()
        token = next_token(model, ids)
        told = time.perf_counter()
        for _ in range(output - 1):
            token = next_token(model, [token])
        further.append((time.perf_counter() - told) / max(1, output - 1))
        first.append(told - start)
    return {"ttft_s": first[1:], "tpot_s": further[1:]}


def generate(loader: Any, job: Job) -> Answer:
    """The greedy continuation of tokens, or of a text that the engine tokenizes."""
    model = loader.load(job, job["context"])
    ids = job["prompt_ids"] if "prompt_ids" in job else model.tokenize(job["prompt"])
    found = [next_token(model, ids)]
    while len(found) < job["output_tokens"]:
        found.append(next_token(model, found[-1:]))
    text = model.text(found) if hasattr(model, "text") else ""
    return {"ids": found, "text": text, "prompt_ids": [int(token) for token in ids]}


TASKS = {"predict": predict, "time": measure, "generate": generate}


def main(request: Answer) -> Answer:
    """Do the jobs of a request one after the other."""
    spec = importlib.util.spec_from_file_location("loader", request["loader"])
    if spec is None or spec.loader is None:
        raise SystemExit(f"{request['loader']} is no program")
    loader: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    more = getattr(loader, "tasks", {})
    answers = []
    for index, job in enumerate(request["jobs"]):
        given = {"options": {}, "threads": request["threads"], "device": request["device"], **job}
        try:
            answer = more[job["task"]](given) if job["task"] in more else TASKS[job["task"]](loader, given)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- the answer to this job, and others follow
            said = str(error).strip().splitlines()
            lines = [line.strip() for line in said if _LINK not in line] or ["without a word"]
            answer = {"error": f"{type(error).__name__}: {lines[-1][:400]}"}
            if isinstance(error, ImportError):  # it says nothing of what was to be loaded
                answer["absent"] = True
        answers.append(answer)
        print(f"job {index + 1} of {len(request['jobs'])}: {answer}", flush=True)
        gc.collect()
        if hasattr(loader, "release"):
            loader.release()
    return {"answers": answers, "versions": _versions(request["device"])}


def _versions(device: str) -> Answer:
    loaded = {name: sys.modules[name] for name in ("torch", "vllm") if name in sys.modules}
    found: Answer = {name: str(getattr(module, "__version__", "unknown")) for name, module in loaded.items()}
    name = sys.modules["torch"].cuda.get_device_name(0) if device != "cpu" and "torch" in found else "cpu"
    return {**found, "device": name}


if __name__ == "__main__":
    asked_for = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(asked_for["answer"]).write_text(json.dumps(main(asked_for)), encoding="utf-8")
