"""The profile stage of a run: what a candidate's latency is predicted from, timed here.

Operations of the space and an overhead fitted to whole models, where the engine's kernels can be called one by one;
whole exports, one a format, where they cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.pipeline.output import Stages

if TYPE_CHECKING:
    from paretune.engines.profiled_engine import ProfiledEngine
    from paretune.engines.runner_engine import RunnerEngine
    from paretune.evaluators.cost import CostPredictor
    from paretune.pipeline.workbench import Workbench
    from paretune.profiles.predictor import MeasuredRun
    from paretune.profiles.table import CostTable

FILE = "profile.json"
FORMATS_FILE = "formats.json"
_TIMES = ("ttft_s", "tpot_s")
_SECONDS = 15.0
"""Time box of the operations; whole models come on top."""
_ROUNDS = 3


def profile_engine(bench: Workbench, stages: Stages) -> CostPredictor | None:
    """A predictor for the engine on this machine; ``None`` where latency is not predicted.

    That is where the target is another device, and for engines that are timed as a whole only if the search asks for
    a time. What an earlier run in the same folder timed is not timed again.

    Raises:
        EngineError: the search asks for a time at a workload that the engine cannot be timed at.
    """
    from paretune.engines.profiled_engine import ProfiledEngine
    from paretune.engines.runner_engine import RunnerEngine

    engine = bench.engine
    if not runs_here(bench):
        return None
    if isinstance(engine, RunnerEngine):
        return _profile_formats(bench, engine, stages) if _asks_for_time(bench) else None
    return _profile_operations(bench, engine, stages) if isinstance(engine, ProfiledEngine) else None


def runs_here(bench: Workbench) -> bool:
    """Whether the engine runs on this machine, and this machine is the target."""
    from paretune.profiles.devices import detect_device

    engine = bench.engine
    return bool(engine.available()) and detect_device(engine.device_kind).name == bench.device.name


def can_be_timed(bench: Workbench) -> bool:
    """Whether candidates can be timed here at the workload; runners decode one sequence."""
    from paretune.engines.profiled_engine import ProfiledEngine
    from paretune.engines.runner_engine import RunnerEngine

    single = bench.run.workload.batch == 1
    able = isinstance(bench.engine, ProfiledEngine) or (isinstance(bench.engine, RunnerEngine) and single)
    return able and runs_here(bench)


def _asks_for_time(bench: Workbench) -> bool:
    from paretune.spaces.limits import Limit
    from paretune.spaces.metrics import find_metric

    search = bench.run.search
    asked = [*search.objectives, *(Limit.parse(text).metric for text in search.limits)]
    return any(find_metric(name).name in _TIMES for name in asked)


def _profile_formats(bench: Workbench, engine: RunnerEngine, stages: Stages) -> CostPredictor:
    from paretune.profiles.format_predictor import FormatPredictor, timing_configs
    from paretune.profiles.whole_exports import time_exports

    predictor, file = FormatPredictor(), bench.folder / FORMATS_FILE
    with stages.stage("profile", "timing every format in the engine"):
        runs = _known_runs(file, bench)
        missing = [c for c in timing_configs(bench.space) if c.digest not in runs]
        if missing:
            timed = time_exports(
                engine, bench.assembler, missing, bench.run.workload, bench.model_folder,
                progress=stages.report,
            )  # fmt: skip
            runs |= {whole.run.config.digest: whole.run for whole in timed}
            _keep_runs(file, engine.version(), runs)
        predictor.fit(bench.spec, runs.values())
    return predictor


def _known_runs(file: Path, bench: Workbench) -> dict[str, MeasuredRun]:
    import json

    from paretune.profiles.predictor import MeasuredRun
    from paretune.spaces.configuration import CompressionConfig

    if not file.exists():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["engine_version"] != bench.engine.version():
        return {}
    rows = found["runs"]
    configs = [CompressionConfig.model_validate(row["config"]) for row in rows]
    return {
        config.digest: MeasuredRun(config, bench.run.workload, row["ttft_s"], row["tpot_s"])
        for config, row in zip(configs, rows, strict=True)
    }


def _keep_runs(file: Path, version: str, runs: Mapping[str, MeasuredRun]) -> None:
    import json

    from paretune.search.run_folder import write_whole

    rows = [
        {"config": run.config.model_dump(mode="json"), "ttft_s": run.ttft_s, "tpot_s": run.tpot_s}
        for run in runs.values()
    ]
    write_whole(file, json.dumps({"engine_version": version, "runs": rows}, indent=1) + "\n")


def _profile_operations(bench: Workbench, engine: ProfiledEngine, stages: Stages) -> CostPredictor:
    from paretune.profiles.predictor import Predictor

    with stages.stage("profile", "profiling the engine here"):
        table = _operations(bench, engine, stages)
        predictor = Predictor(engine, table, bench.device)
        predictor.fit(bench.spec, _whole_models(bench, engine, stages))
    return predictor


def _operations(bench: Workbench, engine: ProfiledEngine, stages: Stages) -> CostTable:
    from paretune.profiles.coverage import space_operations
    from paretune.profiles.harness import distinct_operations, time_operations
    from paretune.profiles.table import CostTable
    from paretune.profiles.whole_model import profile_candidates

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


def _whole_models(bench: Workbench, engine: ProfiledEngine, stages: Stages) -> list[MeasuredRun]:
    from paretune.profiles.whole_model import profile_candidates, time_models

    candidates = profile_candidates(bench.spec, engine.legality(bench.device.name))
    timed = time_models(
        engine, bench.assembler, candidates, bench.run.workload, rounds=_ROUNDS, progress=stages.report
    )
    return [found.run for found in timed.values()]
