"""After the search: tasks and latency of the front, the export of the pick, and the files of the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from commands.output import Stages, note
from spaces.measurement import Measurement
from spaces.result import FrontFile, LatencyCheck, Member

if TYPE_CHECKING:
    from commands.workbench import Workbench

CHECKED = 8
"""Candidates whose predicted decode latency is compared with a measured one, at least."""


def judge_tasks(bench: Workbench, front: FrontFile, stages: Stages) -> FrontFile:
    """Score members, the dense model and the plain uniform configurations on every task."""
    from evaluators.tasks import TaskEvaluator, TaskScorer, TaskSettings

    asked = bench.run.tasks
    if asked.folder is None and not asked.names:
        return front
    settings = TaskSettings(asked.names, _path(asked.folder), asked.limit, asked.batch_size)
    with stages.stage("tasks", "scoring the front on tasks"):
        evaluator = TaskEvaluator(bench.assembler, TaskScorer(bench.tokenizer, settings))
        return _measured(front, evaluator.evaluate, stages, only=_worth_tasks(front))


def measure_latency(bench: Workbench, front: FrontFile, stages: Stages) -> FrontFile:
    """Measure time to first token and per output token of members, on the engine's own runtime."""
    if not bench.run.measure_latency or not bench.engine.available():
        return front
    with stages.stage("latency", "measuring latency of the front"):
        return _measured(front, lambda config: time_candidate(bench, config), stages, only=_worth_timing(front))


def time_candidate(bench: Workbench, config: Any) -> Mapping[str, Measurement]:
    """``ttft_s`` and ``tpot_s`` of one candidate, measured."""
    timing = bench.engine.runtime(bench.assembler, config, bench.compute_device).time(bench.run.workload)
    by = f"{bench.engine.name}/{bench.engine.version()}"
    return {
        "ttft_s": Measurement(
            value=timing.ttft_s, unit="s", stderr=timing.ttft_spread_s, n=timing.repetitions, by=by
        ),
        "tpot_s": Measurement(
            value=timing.tpot_s, unit="s", stderr=timing.tpot_spread_s, n=timing.repetitions, by=by
        ),
    }


def latency_checks(front: FrontFile) -> tuple[LatencyCheck, ...]:
    """Predicted beside measured decode latency, for every member that has both."""
    checks = []
    for member in front.members:
        predicted, measured = member.value("tpot_s_predicted"), member.value("tpot_s")
        if predicted is not None and measured is not None:
            checks.append(
                LatencyCheck(
                    name=member.name, digest=member.digest, predicted_s=predicted, measured_s=measured
                )
            )
    return tuple(checks)


def _measured(
    front: FrontFile,
    measure: Callable[[Any], Mapping[str, Measurement]],
    stages: Stages,
    only: Iterable[str],
) -> FrontFile:
    chosen, members = set(only), []
    for member in front.members:
        if member.digest in chosen:
            stages.report(member.name, len(members), len(front.members))
            found = {**member.measurements, **measure(member.config)}
            member = member.model_copy(update={"measurements": found})  # noqa: PLW2901
        members.append(member)
    return front.model_copy(update={"members": tuple(members)})


def _worth_tasks(front: FrontFile) -> list[str]:
    return [m.digest for m in front.members if m.on_front or _is_plain(m)]


def _worth_timing(front: FrontFile) -> list[str]:
    first = [m.digest for m in front.members if m.on_front or _is_plain(m)]
    rest = [m.digest for m in front.members if m.digest not in first]
    return first + rest[: max(0, CHECKED - len(first))]


def _is_plain(member: Member) -> bool:
    """The dense model, and uniform configurations that change nothing but the width of linears."""
    return member.name == "dense" or (
        member.name.startswith("uniform-") and member.name.removeprefix("uniform-").isdigit()
    )


def _path(folder: str | None) -> Any:
    from pathlib import Path

    return None if folder is None else Path(folder)


__all__ = ["judge_tasks", "latency_checks", "measure_latency", "note", "time_candidate"]
