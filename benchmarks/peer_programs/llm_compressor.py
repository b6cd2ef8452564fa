"""Methods of ``llm-compressor`` that change weights alone, each with the library's own defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmcompressor.modifiers.gptq import GPTQModifier  # type: ignore[import-not-found]

from benchmarks.peer_programs.job import Job, Model, answer
from benchmarks.peer_programs.oneshot import apply, round_weights, weight_scheme


def _gptq(job: Job) -> list[Any]:
    """Order of columns: ``static`` unless the option ``actorder`` says ``group`` or ``none``."""
    order = job.options.get("actorder", "static")
    groups = weight_scheme(job)
    return [GPTQModifier(config_groups=groups, actorder=None if order == "none" else order)]


RECIPES: dict[str, Callable[[Job], list[Any]]] = {"gptq": _gptq}
"""Modifiers of each word of ``compression.csv``."""


def compress(model: Model) -> None:
    """Calibrate, and leave in the network what its checkpoint would compute with."""
    apply(model, RECIPES[model.job.method](model.job))
    round_weights(model)


if __name__ == "__main__":
    answer(compress)
