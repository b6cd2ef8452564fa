"""Methods of ``llm-compressor`` that change weights alone, each with the library's own defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from llmcompressor.modifiers.gptq import GPTQModifier  # type: ignore[import-not-found]
from llmcompressor.modifiers.pruning import (  # type: ignore[import-not-found]
    SparseGPTModifier,
    WandaPruningModifier,
)
from llmcompressor.modifiers.quantization import QuantizationModifier  # type: ignore[import-not-found]
from llmcompressor.modifiers.transform.awq import AWQModifier  # type: ignore[import-not-found]
from llmcompressor.pipelines.cache import IntermediatesCache  # type: ignore[import-not-found]

from benchmarks.peer_programs.job import Job, Model, answer
from benchmarks.peer_programs.oneshot import apply, round_weights, weight_scheme


def _gptq(job: Job) -> list[Any]:
    """Order of columns: ``static`` unless the option ``actorder`` says ``weight`` or ``none``."""
    order = job.options.get("actorder", "static")
    groups = weight_scheme(job)
    return [GPTQModifier(config_groups=groups, actorder=None if order == "none" else order)]


def _awq(job: Job) -> list[Any]:
    """Scales of inputs first (they change norms and the weights before), then rounding to nearest."""
    if not torch.accelerator.is_available():
        # 0.14 pins kept inputs for a faster way to an accelerator, and fails where there is none; values stay.
        IntermediatesCache.pin_memory = lambda *_arguments, **_options: None
    return [AWQModifier(**job.options), QuantizationModifier(config_groups=weight_scheme(job))]


def _nearest(job: Job) -> list[Any]:
    """Rounding to nearest within the range that the option ``observer`` finds."""
    return [QuantizationModifier(config_groups=weight_scheme(job))]


def _sparsegpt(job: Job) -> list[Any]:
    return [SparseGPTModifier(targets=list(job.linears), **job.options)]


def _wanda(job: Job) -> list[Any]:
    return [WandaPruningModifier(targets=list(job.linears), **job.options)]


QUANTIZERS: dict[str, Callable[[Job], list[Any]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "rtn": _nearest,
    "minmax": _nearest,
}
"""Modifiers of each word of ``compression.csv``."""

PRUNERS: dict[str, Callable[[Job], list[Any]]] = {"sparsegpt": _sparsegpt, "wanda": _wanda}
"""Modifiers of each criterion of ``pruning.csv``; options are ``sparsity`` and ``mask_structure``."""


def compress(model: Model) -> None:
    """Calibrate, and leave in the network what its checkpoint would compute with."""
    method = model.job.method
    if method in PRUNERS:
        apply(model, PRUNERS[method](model.job))
    else:
        apply(model, QUANTIZERS[method](model.job))
        round_weights(model)


if __name__ == "__main__":
    answer(compress)
