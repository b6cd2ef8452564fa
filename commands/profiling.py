"""The profile stage of a run: operations of the space timed here, overhead fitted to whole models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from commands.output import Stages

if TYPE_CHECKING:
    from commands.workbench import Workbench
    from engines.profiled_engine import ProfiledEngine
    from profiles.predictor import MeasuredRun, Predictor
    from profiles.table import CostTable

FILE = "profile.json"
_SECONDS = 15.0
"""Time box of the operations; whole models come on top."""
_ROUNDS = 3


def profile_engine(bench: Workbench, stages: Stages) -> Predictor | None:
    """A predictor for the engine on this machine; ``None`` where the target is another device.

    Operations that an earlier run in the same folder timed are not timed again.
    """
    from engines.profiled_engine import ProfiledEngine
    from profiles.devices import detect_device
    from profiles.predictor import Predictor

    engine = bench.engine
    here = detect_device(engine.device_kind)
    if not isinstance(engine, ProfiledEngine) or not engine.available() or here.name != bench.device.name:
        return None
    with stages.stage("profile", "profiling the engine here"):
        table = _operations(bench, engine, stages)
        predictor = Predictor(engine, table, bench.device)
        predictor.fit(bench.spec, _whole_models(bench, engine, stages))
    return predictor


def _operations(bench: Workbench, engine: ProfiledEngine, stages: Stages) -> CostTable:
    from profiles.coverage import space_operations
    from profiles.harness import distinct_operations, time_operations
    from profiles.table import CostTable
    from profiles.whole_model import profile_candidates

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
    from profiles.whole_model import profile_candidates, time_models

    candidates = profile_candidates(bench.spec, engine.legality(bench.device.name))
    timed = time_models(
        engine, bench.assembler, candidates, bench.run.workload, rounds=_ROUNDS, progress=stages.report
    )
    return [found.run for found in timed.values()]
