"""What fell short: the plain truths that a recommendation must not hide."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from reports.answer import Answer, find_answer
from reports.comparison import retention, task_names
from reports.numerals import digits, percent
from reports.reading import RunFolder
from spaces.limits import Limit
from spaces.result import LatencyCheck

_TOLERATED_ERROR = 0.2
"""Relative error of predicted latency above which the report warns."""


@dataclass(frozen=True)
class LatencyError:
    """How predicted decode latency compares with measured.

    Attributes:
        median, worst: relative errors, ``|predicted - measured| / measured``.
        worst_name: of the candidate with the worst.
        bias: median of ``predicted / measured - 1``.
        ordered: share of pairs that the prediction puts in the measured order; ties in either are left out.
    """

    checks: int
    median: float
    worst: float
    worst_name: str
    bias: float
    ordered: float | None


def latency_error(checks: tuple[LatencyCheck, ...]) -> LatencyError | None:
    """The error over all checks; ``None`` without checks."""
    usable = [check for check in checks if check.measured_s > 0]
    if not usable:
        return None
    ratios = [check.predicted_s / check.measured_s - 1 for check in usable]
    worst = max(range(len(usable)), key=lambda i: abs(ratios[i]))
    return LatencyError(
        checks=len(usable),
        median=statistics.median(abs(ratio) for ratio in ratios),
        worst=abs(ratios[worst]),
        worst_name=usable[worst].name,
        bias=statistics.median(ratios),
        ordered=_ordered(usable),
    )


def latency_words(error: LatencyError) -> str:
    """The error in words."""
    order = (
        f"; {percent(error.ordered)} of the pairs are in the right order" if error.ordered is not None else ""
    )
    lean = "" if abs(error.bias) < 0.02 else f" (mostly too {'high' if error.bias > 0 else 'low'})"
    return (
        f"Predicted decode latency is off by {percent(error.median)} at the median{lean} and by "
        f"{percent(error.worst)} at worst ({error.worst_name}), over {error.checks} candidates{order}."
    )


def shortfalls(folder: RunFolder) -> list[str]:
    """Everything a user should know before trusting the pick; empty when nothing fell short."""
    answer = find_answer(folder)
    return [
        *_of_the_export(folder),
        *_of_the_run(folder),
        *_of_the_pick(folder, answer),
        *_of_the_tasks(folder, answer),
    ]


def _of_the_run(folder: RunFolder) -> list[str]:
    found = []
    if folder.run.status != "complete":
        found.append(f"The run is {folder.run.status}: the front is what was found so far.")
    error = latency_error(folder.run.latency_checks)
    if error is not None and error.worst > _TOLERATED_ERROR:
        found.append(
            f"Predicted latency is off by up to {percent(error.worst)} ({error.worst_name}): "
            "trust the measured columns where they differ."
        )
    return found


def _of_the_pick(folder: RunFolder, answer: Answer) -> list[str]:
    if answer.pick is None:
        return ["No member meets the limits; `paretune select` names the nearest."]
    found = []
    for text in folder.front.limits:
        limit = Limit.parse(text)
        value = answer.pick.value(limit.metric)
        if value is None:
            value = answer.pick.value(f"{limit.metric}_predicted")
        if value is not None and limit.violation(value) > 0:
            found.append(f"The pick breaks the limit {text}: {limit.metric} is {digits(value)}.")
    margin = answer.margin
    if margin is not None and answer.uniform is not None and margin.stderr is not None:
        if margin.value < 0 and margin.clear:
            found.append(f"The pick is worse than {answer.uniform.name}, which is no larger: use that one.")
        elif not margin.clear:
            found.append(f"The pick cannot be told from {answer.uniform.name} by two paired standard errors.")
    return found


def _of_the_tasks(folder: RunFolder, answer: Answer) -> list[str]:
    if answer.pick is None or answer.dense is None:
        return []
    kept = [retention(answer.pick, answer.dense, task) for task in task_names(folder.front)]
    falls = [
        f"{one.task} from {digits(one.dense)} to {digits(one.score)}"
        for one in kept
        if one is not None and one.clear
    ]
    return [f"More than chance explains, tasks fall: {', '.join(falls)}."] if falls else []


def _of_the_export(folder: RunFolder) -> list[str]:
    export = folder.run.export
    if export is None:
        finished = folder.run.status == "complete"
        return ["Nothing was exported, so nothing was loaded again."] if finished else []
    if "failed" in export:
        return [f"The export in {export.get('folder')} is not the pick, do not deploy it: {export['failed']}"]
    if "not_loaded" in export:
        return [f"The pick was exported and not loaded again: {export['not_loaded']}"]
    return []


def _ordered(checks: list[LatencyCheck]) -> float | None:
    pairs = agreeing = 0
    for i, first in enumerate(checks):
        for second in checks[:i]:
            predicted, measured = first.predicted_s - second.predicted_s, first.measured_s - second.measured_s
            if predicted and measured:
                pairs += 1
                agreeing += (predicted > 0) == (measured > 0)
    return agreeing / pairs if pairs else None
