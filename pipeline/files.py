"""``run.json``, written at the start of a run and again at its end."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from paretune.pipeline.progress import Stages
from paretune.pipeline.workbench import Workbench
from paretune.search.study import Study
from paretune.spaces.errors import EngineAbsentError, RunError
from paretune.spaces.files import FileKind, read_document, read_object, write_document, write_json
from paretune.spaces.result import FrontFile, LatencyCheck, RunDocument

FILE = "run.json"
_SPENT = "spent.json"
_KIND = FileKind("run", RunError, "Start anew")
Status = Literal["running", "complete", "interrupted"]
_PACKAGES = ("paretune", "torch", "transformers", "optuna", "lm-eval", "compressed-tensors", "numpy")


def write_run(
    bench: Workbench,
    study: Study,
    stages: Stages,
    status: Status,
    *,
    front: FrontFile | None = None,
    checks: tuple[LatencyCheck, ...] = (),
    export: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Path:
    """Write ``run.json``; stages' seconds and records are taken as they stand."""
    spec, run = bench.spec, bench.run
    # What the user did not name in the space is the engine's to choose, when the run goes on too.
    named = run.space.model_dump(mode="json", exclude_unset=True)
    settings = {**run.model_dump(mode="json"), "space": named}
    document = RunDocument(
        status=status,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model={
            "source": run.model, "revision": run.revision, "architecture": spec.architecture,
            "parameters": spec.parameters, "dtype": spec.dtype, "blocks": spec.blocks,
        },
        engine=run.engine,
        engine_version=engine_version(bench),
        numeric_path=bench.engine.numeric_path(bench.device.name),
        device=bench.device.model_dump(mode="json"),
        workload=run.workload.model_dump(mode="json"),
        settings=settings,
        versions=versions(),
        hashes=bench.hashes,
        seed=run.search.seed,
        texts=_texts(bench),
        kl_mode=bench.quality.mode,
        tasks=_tasks(front),
        latency_checks=checks,
        plan=bench.plan,
        scoring={
            "arithmetic": bench.arithmetic.name,
            "kl_floor": bench.arithmetic.kl_floor,
            "device": str(bench.assembler.model.device),
        },
        spent={name: round(seconds, 3) for name, seconds in stages.spent.items()},
        evaluations=study.records.evaluations,
        ended=study.ended,
        records=study.records.counts(),
        groups=bench.space.groups,
        refused=bench.space.refused,
        export=None if export is None else dict(export),
        notes=notes,
    )  # fmt: skip
    return write_document(bench.folder / FILE, document)


def spent_before(folder: Path) -> dict[str, float]:
    """Seconds by stage of earlier calls; a run that goes on adds to them."""
    found: dict[str, float] = {}
    for read in (_spent_by_run, _spent_by_stages):
        try:
            for name, seconds in read(folder).items():
                found[name] = max(seconds, found.get(name, 0.0))
        except (RunError, TypeError, ValueError):  # it is written anew at the end
            continue
    return found


def write_spent(folder: Path, stages: Stages) -> None:
    """Keep the seconds of a call that ended before there was a ``run.json``."""
    if not (folder / FILE).is_file():
        write_json(folder / _SPENT, stages.spent)


def _spent_by_run(folder: Path) -> dict[str, float]:
    return read_document(folder / FILE, RunDocument, _KIND).spent


def _spent_by_stages(folder: Path) -> dict[str, float]:
    return {name: float(seconds) for name, seconds in read_object(folder / _SPENT, _KIND).items()}


def engine_version(bench: Workbench) -> str:
    """Empty where the engine is on another machine: searching for it takes rules and weights alone.

    Raises:
        EngineUnavailableError: somebody named an interpreter for it that is not there or has no such package.
    """
    try:
        return bench.engine.version()
    except EngineAbsentError:
        return ""


def versions() -> dict[str, str]:
    """Installed versions of the packages that make numbers."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _texts(bench: Workbench) -> dict[str, dict[str, Any]]:
    return {
        name: {"digest": windows.digest, "windows": windows.count, "window_tokens": windows.window_tokens}
        for name, windows in bench.windows.items()
    }


def _tasks(front: FrontFile | None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for member in front.members if front is not None else ():
        for name, measured in member.measurements.items():
            if name.startswith("task."):
                found[name.removeprefix("task.")] = {"items": measured.n}
    return found
