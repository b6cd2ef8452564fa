"""What cannot succeed is refused before anything is loaded: missing texts, and what nobody will have a value of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from paretune.engines import Engine
from paretune.evaluators.cost import SIZES
from paretune.evaluators.quality import QualityEvaluator
from paretune.pipeline.run_file import RunFile
from paretune.pipeline.targets import TIMES, why_untimed
from paretune.search.feasibility import check_measured
from paretune.spaces.errors import EngineAbsentError, TextError
from paretune.spaces.target import Device


def refuse_early(run: RunFile, engine: Engine, device: Device) -> None:
    """Refuse a search by its settings and this machine alone.

    Raises:
        TextError: a text is no file.
        EngineUnavailableError: an interpreter that was named for the engine is not there or has no such package.
        SpaceError: an objective that no candidate would have a value of.
        LimitError: the same of a limit.
    """
    for source in (run.texts.single, run.texts.calibration, run.texts.search, run.texts.report):
        if source is not None and not Path(source.path).is_file():
            raise TextError(f"text {source.path}", "is no file", "Name a text file in UTF-8")
    with suppress(EngineAbsentError):  # on another machine: searching for it takes rules and weights alone
        engine.version()
    untimed = why_untimed(engine, device, run.workload)
    costs = SIZES if untimed else (*SIZES, *(f"{name}_predicted" for name in TIMES))
    search = run.search
    quality = [*QualityEvaluator.metrics]
    if run.tasks.settings is not None:  # their names are looked up once they are loaded
        quality += [f"task.{name}" for name in run.searched_tasks]
    check_measured(search.objectives, search.parsed_limits, quality, costs, untimed)
