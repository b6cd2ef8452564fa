"""Exports run by their engine, in another process: jobs go to :mod:`paretune.engines.runner`, arrays through files."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.environments import Environment, run_in_environment
from paretune.engines.foreign_process import run_together
from paretune.spaces.errors import EngineAbsentError, EngineError

if TYPE_CHECKING:
    import torch

    from paretune.engines.engine import Engine
    from paretune.engines.predictions import Predictions

RUNNER = Path(__file__).with_name("runner.py")
LOADERS = Path(__file__).with_name("loaders")
TOP = 64
"""Log-probabilities a position where those of the whole vocabulary would be too many; the rest is one bucket."""
TIMEOUT_VARIABLE = "PARETUNE_ENGINE_TIMEOUT_S"
_TIMEOUT_S = 3600.0
_MOST_BYTES = 1 << 30

Job = dict[str, Any]
Answer = dict[str, Any]


def timeout_s() -> float:
    """Seconds that a process of an engine may take: those of :data:`TIMEOUT_VARIABLE`, else an hour.

    Raises:
        EngineError: the variable holds no positive number.
    """
    said = os.environ.get(TIMEOUT_VARIABLE, "").strip()
    if not said:
        return _TIMEOUT_S
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise EngineError(f"{TIMEOUT_VARIABLE}={said}", "must be seconds above 0", f"Use {_TIMEOUT_S:g}")
    return seconds


def run_jobs(
    environment: Environment,
    loader: str,
    jobs: Sequence[Job],
    *,
    device: str = "cpu",
    variables: Mapping[str, str] | None = None,
) -> tuple[list[Answer], dict[str, str]]:
    """Do jobs one after the other in one process of the environment; answers in their order, and versions.

    Args:
        environment: that has the engine.
        loader: a file of ``engines/loaders``, without its ending.
        jobs: for :mod:`paretune.engines.runner`; a job that fails is answered by its ``error``.
        device: ``cpu`` or ``gpu``.
        variables: of the process.

    Raises:
        EngineUnavailableError: it took too long, or somebody ended it.
        EngineError: the process failed as a whole; carries its last word.
    """
    request = {
        "loader": str(LOADERS / f"{loader}.py"),
        "threads": usable_threads(),
        "device": device,
        "jobs": [_absolute(job) for job in jobs],
    }
    found = run_in_environment(environment, RUNNER, request, timeout_s(), variables)
    return found["answers"], found["versions"]


def predictions_of(
    engine: Engine,
    models: Sequence[tuple[Job, int]],
    ids: torch.Tensor,
    *,
    whole: bool = False,
    processes: int = 0,
) -> list[Predictions | EngineError]:
    """What models predict, in their order; one that is refused has its refusal in that place.

    Of the whole vocabulary up to 1 GiB a model or where it is asked for, else of the :data:`TOP` likeliest tokens.

    Args:
        engine: that runs them.
        models: fields of their jobs (``model``, ``options``), and tokens of their vocabularies.
        ids: int64 ``(windows, tokens)``.
        whole: whether the whole vocabulary is needed, whatever that takes.
        processes: models that are loaded at a time, each in a process of its own; 0: one process for all.

    Raises:
        EngineError: the engine is absent.
    """
    import numpy as np
    import torch

    from paretune.engines.predictions import Predictions

    with tempfile.TemporaryDirectory(prefix="paretune-predictions-") as scratch:
        file = Path(scratch) / "ids.npy"
        np.save(file, ids.to("cpu", torch.int64).numpy(), allow_pickle=False)
        jobs = []
        for index, (fields, vocabulary) in enumerate(models):
            all_of_it = whole or (not engine.only_top and ids.numel() * vocabulary * 4 <= _MOST_BYTES)
            job = {"task": "predict", "ids": str(file), "top": None if all_of_it else TOP, **fields}
            jobs.append(job | {key: str(Path(scratch) / f"{index}.{key}.npy") for key in ("out", "out_ids")})
        shares = [[job] for job in jobs] if processes else [jobs]
        answers = run_together([partial(_answers, engine, share) for share in shares], max(1, processes))
        found: list[Predictions | EngineError] = []
        for job, answer in zip(jobs, [x for share in answers for x in share], strict=True):
            if isinstance(answer, EngineError):
                found.append(answer)
                continue
            values = torch.from_numpy(np.load(job["out"], allow_pickle=False))
            named = Path(job["out_ids"])
            tokens = torch.from_numpy(np.load(named, allow_pickle=False)) if named.is_file() else None
            found.append(Predictions(values, tokens))
        return found


def only(found: Sequence[Predictions | EngineError]) -> Predictions:
    """The predictions of the one model that was asked for.

    Raises:
        EngineError: its refusal.
    """
    if isinstance(found[0], EngineError):
        raise found[0]
    return found[0]


def refused(engine: Engine, job: Job, answer: Answer) -> EngineError:
    """The error of a job that its engine refused, or that wants packages which are not there."""
    if answer.get("absent"):
        return EngineAbsentError(
            f"{engine.name} for {job['model']}",
            f"lacks a package: {answer['error']}",
            "Install it beside the engine, or verify the export where it will run",
        )
    return EngineError(
        f"export {job['model']}",
        f"is refused by {engine.name}: {answer['error']}",
        "See the engine's own documentation",
    )


def _answers(engine: Engine, jobs: Sequence[Job]) -> list[Answer | EngineError]:
    """An answer a job; where the process that they share ends before its time, each gets one of its own."""
    if not jobs:
        return []
    try:
        answers, _ = engine.run(jobs)
    except EngineError as error:
        if len(jobs) == 1:
            return [error]
        return [answer for job in jobs for answer in _answers(engine, [job])]
    return [
        refused(engine, job, answer) if "error" in answer else answer
        for job, answer in zip(jobs, answers, strict=True)
    ]


def _absolute(job: Job) -> Job:
    """A job whose files have absolute names: a runner works in a folder of its own."""
    named = {key: str(Path(job[key]).resolve()) for key in ("model", "ids", "out", "out_ids") if job.get(key)}
    return {**job, **named}


def usable_threads() -> int:
    """Threads that an engine of another process should take: those asked for, else the cores that we may use.

    ``OMP_NUM_THREADS`` is what ``paretune --threads`` sets and torch obeys; it may list a number a level of nesting.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return int(first)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
