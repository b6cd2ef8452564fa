"""Predictions through a runner: arrays go to it and come back as files of numbers, never pickled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune.engines.predictions import Predictions

TOP = 64
"""Log-probabilities a position where those of the whole vocabulary would be too many; the rest is one bucket."""

_MOST_BYTES = 1 << 30
_FILES = ("model", "ids", "out", "out_ids")

Run = Callable[[dict[str, Any]], dict[str, Any]]
"""Hands a request to an engine's runner and returns its answer."""


def runner_predictions(
    run: Run, model: Path, ids: torch.Tensor, vocabulary: int, *, whole: bool = False
) -> Predictions:
    """Of the whole vocabulary up to 1 GiB or where it is asked for, else of the :data:`TOP` likeliest tokens.

    Args:
        run: takes ``task``, ``model``, ``ids``, ``out``, ``top`` and ``out_ids``.
        model: file that the runner loads.
        ids: int64 ``(windows, tokens)``.
        vocabulary: tokens of the model.
        whole: whether all of it is needed, whatever that takes.

    Raises:
        EngineError: the engine is absent, or refuses.
    """
    top = None if whole or ids.numel() * vocabulary * 4 <= _MOST_BYTES else TOP
    with tempfile.TemporaryDirectory(prefix="paretune-predictions-") as scratch:
        files = {key: str(Path(scratch) / f"{key}.npy") for key in ("ids", "out", "out_ids")}
        np.save(files["ids"], ids.to(torch.int64).cpu().numpy(), allow_pickle=False)
        run({"task": "predict", "model": str(model), "top": top, **files})
        found = torch.from_numpy(np.load(files["out"], allow_pickle=False))
        named = None if top is None else torch.from_numpy(np.load(files["out_ids"], allow_pickle=False))
        return Predictions(found, named)


def request_of(**fields: Any) -> dict[str, Any]:
    """A request whose files have absolute names: a runner works in a folder of its own."""
    return {
        name: str(Path(value).resolve()) if name in _FILES and value is not None else value
        for name, value in fields.items()
    }


def usable_threads() -> int:
    """Threads that an engine of another process should take: those asked for, else the cores that we may use.

    ``OMP_NUM_THREADS`` is what ``paretune --threads`` sets and torch obeys; it may list a number a level of nesting.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return int(first)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
