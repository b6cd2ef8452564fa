"""The profile stage of a run: what a candidate's latency is predicted from, timed here.

Operations of the space and an overhead fitted to whole models, where the engine's kernels can be called one by one;
whole exports, one a format, where they cannot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.engines import Engine
from paretune.engines.profiled_engine import ProfiledEngine
from paretune.evaluators.cost import CostPredictor
from paretune.pipeline.progress import Stages
from paretune.pipeline.run_file import RunFile
from paretune.pipeline.targets import TIMES, why_untimed
from paretune.pipeline.workbench import Workbench
from paretune.profiles.coverage import space_operations
from paretune.profiles.devices import detect_device
from paretune.profiles.format_predictor import FormatPredictor, mixed_configs, timing_configs
from paretune.profiles.harness import distinct_operations, time_operations
from paretune.profiles.predictor import Predictor
from paretune.profiles.predictor_file import PredictorFile
from paretune.profiles.table import CostTable
from paretune.profiles.whole_model import profile_candidates, time_exports, time_models
from paretune.spaces.errors import RunError
from paretune.spaces.files import FileKind, read_document, write_document
from paretune.spaces.limits import Limit
from paretune.spaces.metrics import find_metric
from paretune.spaces.schema import sha256_of

FILE = "profile.json"
KEPT = "predictor.json"
UNPREDICTED = "none"
"""Digest of a run whose times are not predicted."""
_SECONDS = 15.0
"""Time box of the operations; whole models come on top."""
_ROUNDS = 3


def profile_engine(bench: Workbench, stages: Stages) -> tuple[CostPredictor | None, str]:
    """A predictor for the engine on this machine and its digest; ``None`` where latency is not predicted.

    That is where the target is another device, and for engines that are timed as a whole only if the search asks for
    a time. What an earlier run in the same folder timed and fitted is taken as it is.

    Raises:
        EngineError: the search asks for a time at a workload that the engine cannot be timed at.
        RunError: what was timed in this folder was another engine, device or workload.
    """
    engine = bench.engine
    if not runs_here(bench):
        return None, UNPREDICTED
    if engine.times_exports:
        timed = asks_for_time(bench.run) or (bench.folder / KEPT).exists()
        return _profile_formats(bench, engine, stages) if timed else (None, UNPREDICTED)
    if engine.profiled is not None:
        return _profile_operations(bench, engine.profiled, stages)
    return None, UNPREDICTED


def runs_here(bench: Workbench) -> bool:
    """Whether the engine runs on this machine, and this machine is the target."""
    engine = bench.engine
    return bool(engine.available()) and detect_device(engine.device_kind).name == bench.device.name


def can_be_timed(bench: Workbench) -> bool:
    """Whether candidates can be timed here at the workload."""
    return not why_untimed(bench.engine, bench.device, bench.run.workload)


def asks_for_time(run: RunFile) -> bool:
    """Whether an objective or a limit is a time."""
    asked = [*run.search.objectives, *(Limit.parse(text).metric for text in run.search.limits)]
    return any(find_metric(name).name in TIMES for name in asked)


def _profile_formats(bench: Workbench, engine: Engine, stages: Stages) -> tuple[CostPredictor, str]:
    with stages.stage("profile", "timing every format in the engine"):
        file = _kept(bench, "")
        if not file.runs:
            configs, mixtures = timing_configs(bench.space), mixed_configs(bench.space)
            timed = time_exports(
                engine, bench.assembler, (*configs, *mixtures), bench.run.workload, bench.model_folder,
                progress=stages.report,
            )  # fmt: skip
            runs, predictor = [whole.run for whole in timed], FormatPredictor()
            predictor.fit(bench.spec, runs[: len(configs)], runs[len(configs) :])
            rates = {
                metric: tuple((place, form, seconds) for (place, form), seconds in found.items())
                for metric, found in predictor.rates.items()
            }
            file = _keep(bench, file, {"runs": tuple(runs), "rates": rates, "errors": predictor.errors})
    return FormatPredictor(file.rates, file.errors), file.digest


def _profile_operations(
    bench: Workbench, engine: ProfiledEngine, stages: Stages
) -> tuple[CostPredictor, str]:
    with stages.stage("profile", "profiling the engine here"):
        table = _operations(bench, engine, stages)
        file = _kept(bench, sha256_of(table.model_dump(mode="json")))
        predictor = Predictor(engine, table, bench.device, file.overheads)
        if not file.runs:
            candidates = profile_candidates(bench.spec, engine.legality(bench.device.name))
            timed = time_models(
                engine,
                bench.assembler,
                candidates,
                bench.run.workload,
                rounds=_ROUNDS,
                progress=stages.report,
            )
            runs = tuple(whole.run for whole in timed.values())
            file = _keep(bench, file, {"runs": runs, "overheads": predictor.fit(bench.spec, runs)})
    return predictor, file.digest


def _kept(bench: Workbench, operations: str) -> PredictorFile:
    """What the folder has of whole models, without runs where it has nothing yet.

    Raises:
        RunError: it cannot be read, or is of something else.
    """
    path, engine = bench.folder / KEPT, bench.engine
    wanted = PredictorFile(
        engine=engine.name, engine_version=engine.version(), device=bench.device.name,
        workload=bench.run.workload, operations=operations, runs=(),
    )  # fmt: skip
    if not path.exists():
        return wanted
    remedy = "Choose another folder with --out, or remove this one: a search compares times of one fit alone"
    found = read_document(path, PredictorFile, FileKind("predictor", RunError, remedy))
    if not found.made_for(wanted):
        raise RunError(str(path), "was timed with another engine, device, workload or operations", remedy)
    return found


def _keep(bench: Workbench, file: PredictorFile, found: dict[str, Any]) -> PredictorFile:
    file = file.model_copy(update=found)
    write_document(bench.folder / KEPT, file)
    return file


def _operations(bench: Workbench, engine: ProfiledEngine, stages: Stages) -> CostTable:
    path: Path = bench.folder / FILE
    known = CostTable.read(path) if path.exists() else CostTable()
    known = known.of(device=bench.device.name, engine=engine.name, engine_version=engine.version())
    wanted = list(space_operations(engine, bench.space, bench.run.workload))
    for config in profile_candidates(bench.spec, engine.legality(bench.device.name)).values():
        wanted += engine.operations(bench.spec, config, bench.run.workload)
    missing = [operation for operation in distinct_operations(wanted) if operation not in known]
    if missing:
        timed = time_operations(
            engine,
            missing,
            4 * bench.spec.parameters,
            _SECONDS,
            device=bench.device,
            progress=stages.report,
        )
        known = known.joined(timed.rows)
        known.write(path)
    return known
