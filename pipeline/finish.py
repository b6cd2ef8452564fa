"""After the search: tasks and latency of the front, the export of what is recommended, and the run folder's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paretune.evaluators.tasks import TaskScorer
from paretune.pipeline.progress import Stages
from paretune.pipeline.workbench import Workbench
from paretune.profiles.energy import EnergyMeter
from paretune.profiles.format_predictor import mixed_configs, timing_configs
from paretune.profiles.whole_model import WholeModel, profile_candidates, time_exports, time_models
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import FrontFile, LatencyCheck, Member

CHECKED = 8
"""Candidates whose predicted decode latency is compared with a measured one, at least."""
_ROUNDS = 3


def judge_tasks(bench: Workbench, front: FrontFile, stages: Stages) -> FrontFile:
    """Score members, the dense model and the plain uniform configurations on every task."""
    if bench.scorer is None:
        return front
    names = [name for name in bench.scorer.tasks if name not in bench.run.searched_tasks]
    if not names:
        return front  # the report reading has them, on items that the search did not see
    with stages.stage("tasks", "scoring the front on tasks"):
        chosen = _worth_tasks(front)
        found: dict[str, Mapping[str, Measurement]] = {}
        for member in front.members:
            if member.digest in chosen:
                model = bench.assembler.apply(bench.executed(member.config))
                done = len(found) * len(names)
                scores = scores_by_task(
                    bench.scorer, model, names, stages, member.name, done, len(chosen) * len(names)
                )
                found[member.digest] = {f"task.{name}": score for name, score in scores.items()}
    return _with(front, found)


def scores_by_task(
    scorer: TaskScorer, model: Any, names: Sequence[str], stages: Stages, what: str, done: int, total: int
) -> dict[str, Measurement]:
    """Scores of a model on tasks, one after the other, so that people see where it is.

    Args:
        scorer: of the tasks.
        model: that is scored.
        names: of tasks.
        stages: is told of each.
        what: name of the model.
        done, total: tasks of a model that were scored before, and of all models.
    """
    found: dict[str, Measurement] = {}
    for name, items in scorer.all_items(names).items():
        stages.report(f"{what}, {name}", done + len(found), total)
        found |= scorer.score(model, {name: items})
    return found


def measure_latency(bench: Workbench, front: FrontFile, stages: Stages) -> FrontFile:
    """Measure latency of members in turns: on the engine's own runtime, or of whole exports where it has none.

    Energy is measured beside it where it is counted and the runtime is ours.
    """
    if not bench.run.measure_latency or not bench.profiled:
        return front
    chosen = _worth_timing(front)
    configs = {m.digest: m.config for m in front.members if m.digest in set(chosen)}
    with stages.stage("latency", "measuring latency of the front"):
        timed = _timed(bench, configs, stages)
    by = f"{bench.engine.name} {bench.engine.version()}"
    return _with(front, {digest: _timings(whole, by) for digest, whole in timed.items()})


def _timed(
    bench: Workbench, configs: Mapping[str, CompressionConfig], stages: Stages
) -> dict[str, WholeModel]:
    engine, workload = bench.engine, bench.run.workload
    if engine.profiled is not None:
        meter = EnergyMeter(bench.device.kind)
        return time_models(
            engine.profiled,
            bench.assembler,
            configs,
            workload,
            rounds=_ROUNDS,
            meter=meter,
            progress=stages.report,
        )
    if not engine.times_exports:
        return {}
    written = [config for config in configs.values() if engine.export_ruling(bench.spec, config)]
    wholes = time_exports(
        engine, bench.assembler, written, workload, bench.model_folder, progress=stages.report
    )
    return {whole.run.config.digest: whole for whole in wholes}


def _timings(whole: WholeModel, by: str) -> dict[str, Measurement]:
    rows = {
        "ttft_s": (whole.run.ttft_s, whole.ttft_spread_s, "s"),
        "tpot_s": (whole.run.tpot_s, whole.tpot_spread_s, "s"),
        "energy_j_per_token": (whole.energy_j_per_token, None, "J"),
    }
    return {
        name: Measurement(value=value, unit=unit, spread=spread, n=whole.rounds, by=by)
        for name, (value, spread, unit) in rows.items()
        if value is not None
    }


def latency_checks(bench: Workbench, front: FrontFile) -> tuple[LatencyCheck, ...]:
    """Predicted beside measured decode latency, for every row that has both and that the predictor never saw."""
    seen = {config.digest for config in _fitted(bench)}
    checks = []
    for member in front.members:
        if member.digest in seen:
            continue
        predicted, measured = member.value("tpot_s_predicted"), member.value("tpot_s")
        if predicted is not None and measured is not None:
            checks.append(
                LatencyCheck(
                    name=member.name, digest=member.digest, predicted_s=predicted, measured_s=measured
                )
            )
    return tuple(checks)


def _fitted(bench: Workbench) -> Iterable[CompressionConfig]:
    """What the predictor was fitted to."""
    if bench.engine.times_exports:
        return (*timing_configs(bench.space), *mixed_configs(bench.space))
    legality = bench.engine.legality_at(bench.device.name, bench.run.workload)
    return profile_candidates(bench.spec, legality).values()


def _with(front: FrontFile, found: Mapping[str, Mapping[str, Measurement]]) -> FrontFile:
    """The front with more measurements, by digest."""
    members = tuple(
        m.model_copy(update={"measurements": {**m.measurements, **found[m.digest]}})
        if m.digest in found
        else m
        for m in front.members
    )
    return front.model_copy(update={"members": members})


def _worth_tasks(front: FrontFile) -> list[str]:
    return [m.digest for m in front.members if m.on_front or _is_plain(m)]


def _worth_timing(front: FrontFile) -> list[str]:
    first = [m.digest for m in front.members if m.on_front or _is_plain(m)]
    rest = [m.digest for m in front.members if m.digest not in first]
    return first + rest[: max(0, CHECKED - len(first))]


def _is_plain(member: Member) -> bool:
    """The dense model, and the first uniform configuration of every width."""
    return member.kind == "dense" or (member.uniform is not None and member.uniform.plain)
