"""Operations and whole models timed here, predicted beside measured latency."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.loading import load_dense, model_hash
from paretune.compressors.windows import TokenWindows
from paretune.engines import find_profiled_engine
from paretune.engines.profiled_engine import ProfiledEngine
from paretune.pipeline.models import model_folder
from paretune.pipeline.progress import Stages
from paretune.pipeline.targets import local_device
from paretune.profiles.candidates import check_workload
from paretune.profiles.coverage import space_operations
from paretune.profiles.energy import EnergyMeter
from paretune.profiles.harness import distinct_operations, time_operations
from paretune.profiles.predictor import Predictor
from paretune.profiles.table import CostTable
from paretune.profiles.whole_model import WholeModel, profile_candidates, time_models
from paretune.spaces.architectures import read_model
from paretune.spaces.measurement import Measurement
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Device, Workload


def profile_model(
    model: str, revision: str | None, engine: str, device: str, workload: Workload, budget: TimeBudget,
    out: Path, stages: Stages,
) -> dict[str, Any]:  # fmt: skip
    """Time operations and whole models here: predicted beside measured latency, and a table of costs.

    Raises:
        EngineError: the engine is not here, or has no operations to time.
        ConfigurationError: a device that is not this machine's; a workload longer than the model's context.
    """
    chosen = find_profiled_engine(engine)
    target = local_device(chosen, device)
    with TemporaryDirectory(prefix="paretune-profile-") as folder:
        with stages.stage("start", "loading the model"):
            assembler = open_model(model, revision, workload, Path(folder))
        return measure(Bench(chosen, target, assembler, workload, stages), budget, out)


@dataclass(frozen=True)
class TimeBudget:
    """How long is measured.

    Attributes:
        seconds: time box of the operations; whole models come on top.
        rounds: times that each whole model runs.
    """

    seconds: float = 30.0
    rounds: int = 5


@dataclass(frozen=True)
class Bench:
    """What is measured with."""

    engine: ProfiledEngine
    device: Device
    assembler: Assembler
    workload: Workload
    stages: Stages


def measure(bench: Bench, budget: TimeBudget, out: Path) -> dict[str, Any]:
    """Everything that the command prints; the table is saved on the way."""
    table = _time_operations(bench, budget.seconds, out)
    predictor = Predictor(bench.engine, table, bench.device)
    measured = _time_models(bench, budget.rounds)
    runs = [each.run for each in measured.values()]
    predicted = predictor.held_out(bench.assembler.spec, runs)
    overheads = predictor.fit(bench.assembler.spec, runs)
    return {
        "model": bench.assembler.spec.source,
        "engine": f"{bench.engine.name} {bench.engine.version()}",
        "device": bench.device.model_dump(mode="json"),
        "workload": bench.workload.model_dump(mode="json"),
        "table": str(out),
        "operations": len(table.rows),
        "overhead": {metric: fitted.model_dump(mode="json") for metric, fitted in overheads.items()},
        "models": [
            _row(name, found, guess) for (name, found), guess in zip(measured.items(), predicted, strict=True)
        ],
    }


def _time_operations(bench: Bench, seconds: float, out: Path) -> CostTable:
    spec, engine = bench.assembler.spec, bench.engine
    legality = engine.legality(bench.device.name)
    known = CostTable.read(out) if out.exists() else CostTable()
    operations = [
        operation
        for config in profile_candidates(spec, legality).values()
        for operation in engine.operations(spec, config, bench.workload)
    ]
    space = SearchSpace(
        spec, legality, Restrictions(methods=("rtn",)), bench.assembler.bank.statistics.block_order
    )
    operations += space_operations(engine, space, bench.workload)
    with bench.stages.stage("operations", "timing operations"):
        timed = time_operations(
            engine,
            distinct_operations(operations),
            4 * spec.parameters,
            seconds,
            device=bench.device,
            progress=bench.stages.report,
        )
    known.joined(timed.rows).write(out)
    return timed


def _time_models(bench: Bench, rounds: int) -> dict[str, WholeModel]:
    legality = bench.engine.legality(bench.device.name)
    with bench.stages.stage("models", "timing whole models"):
        return time_models(
            bench.engine,
            bench.assembler,
            profile_candidates(bench.assembler.spec, legality),
            bench.workload,
            rounds=rounds,
            meter=EnergyMeter(bench.device.kind),
            progress=bench.stages.report,
        )


def _row(name: str, found: WholeModel, predicted: dict[str, Measurement]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "energy_j_per_token": found.energy_j_per_token}
    for metric in ("ttft_s", "tpot_s"):
        measured = getattr(found.run, metric)
        row[metric] = measured
        row[f"{metric}_spread"] = getattr(found, metric.removesuffix("_s") + "_spread_s")
        row[f"{metric}_predicted"] = predicted[metric].value
        row[f"{metric}_error"] = predicted[metric].value / measured - 1
    row["by"] = predicted["tpot_s"].by
    return row


def open_model(model: str, revision: str | None, workload: Workload, place: Path) -> Assembler:
    """The model with a bank of its own in ``place``: what weights say does not change the time.

    Raises:
        ModelError: whatever is wrong with the model.
        ConfigurationError: the workload is longer than the model's context.
    """
    folder = model_folder(model, revision)
    spec = read_model(folder, source=model, revision=revision)
    check_workload(spec, workload)
    dense = load_dense(folder, spec)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(spec.vocabulary, (2, min(64, spec.context)), generator=generator)
    windows = TokenWindows(ids, "calibration", hashlib.sha256(ids.numpy().tobytes()).hexdigest())
    bank = Bank.open(place, folder, dense, spec, model_hash(folder), windows)
    return Assembler(dense, spec, bank)
