"""What fell short: the plain truths that a recommendation must not hide."""

from __future__ import annotations

from paretune.reports.answer import Answer, find_answer
from paretune.reports.comparison import cost, is_uniform, retention, task_names
from paretune.reports.latency import LatencyError, contradicts, latency_error
from paretune.reports.reading import RunFolder
from paretune.spaces.limits import Limit
from paretune.spaces.numerals import digits, percent
from paretune.spaces.result import Member, RunDocument

_TOLERATED_ERROR = 0.2
"""Relative error of predicted latency above which the report warns."""


def shortfalls(folder: RunFolder) -> list[str]:
    """Everything a user should know before trusting the recommended configuration; empty when nothing fell short."""
    answer = find_answer(folder)
    return [
        *_of_the_export(folder),
        *_of_the_run(folder),
        *_of_the_recommended(folder, answer),
        *_of_the_tasks(folder, answer),
    ]


def _of_the_run(folder: RunFolder) -> list[str]:
    found = []
    if folder.run.status != "complete":
        found.append(f"The run is {folder.run.status}: the front is what was found so far.")
    if not any(cost(member, "tpot_s") for member in folder.front.members):
        found.append(f"Times are not known: {folder.run.engine} was not timed in this run.")
    error = latency_error(folder.run.latency_checks)
    if error is not None and contradicts(error):
        found.append(
            f"Measured and predicted times put {error.checks} candidates in different orders, as on a busy machine: "
            "nothing is claimed about speed; measure again where nothing else runs."
        )
    elif error is not None and untrusted(error):
        found.append(
            f"Predicted latency is off by up to {percent(error.worst)} ({error.worst_name}): "
            "trust the measured columns where they differ."
        )
    return found


def _of_the_recommended(folder: RunFolder, answer: Answer) -> list[str]:
    if answer.recommended is None:
        return ["`paretune select` names the nearest member."] if folder.front.limits else []
    found = [] if not is_uniform(answer.recommended) else [_of_a_uniform(folder, answer.recommended)]
    for text in folder.front.limits:
        limit = Limit.parse(text)
        value = answer.recommended.value(limit.metric)
        if value is None:
            value = answer.recommended.value(f"{limit.metric}_predicted")
        if value is not None and limit.violation(value) > 0:
            found.append(
                f"The recommended configuration breaks the limit {text}: {limit.metric} is {digits(value)}."
            )
    margin = answer.margin
    if margin is not None and answer.uniform is not None:
        if margin.value < 0 and margin.clear:
            found.append(
                f"The recommended configuration is worse than {answer.uniform.name}, which is no larger: use that one."
            )
        elif not margin.clear:
            found.append(
                f"What is recommended cannot be told from {answer.uniform.name} by a paired interval of 95 %."
            )
    return found


def _of_a_uniform(folder: RunFolder, recommended: Member) -> str:
    proposed = set(folder.run.records) - {"baseline", "probe", "marginal"}
    if proposed or not folder.run.records:
        return f"{recommended.name} needs no search: no mixed candidate that was measured is as good and smaller."
    return (
        f"{ending(folder.run)} before a mixed candidate was measured, so {recommended.name} is all there is to take"
        f"{more(folder.run)}."
    )


def untrusted(error: LatencyError) -> bool:
    """Whether predictions are off so far, or so contradicted, that it is a shortfall."""
    return contradicts(error) or error.worst > _TOLERATED_ERROR


def ending(run: RunDocument) -> str:
    """``The search reached its bound of 0.4 minutes``: why it ended, as the beginning of a sentence."""
    if run.ended == "converged":
        return "The search ended as its sampler expected nothing better"
    if run.ended == "exhausted":
        return "The search ended as every point of the space was proposed"
    if not run.ended:
        return f"The search {'was interrupted' if run.status == 'interrupted' else 'ended'}"
    return f"The search reached its bound of {_bound(run)} {run.ended}"


def more(run: RunDocument) -> str:
    """``: go on with more --minutes``; empty where nothing is left to find."""
    if not run.ended:
        return ": the same command goes on"
    option = {
        "minutes": "--minutes", "evaluations": "--max-evaluations", "candidates": "max_candidates in a run file",
    }  # fmt: skip
    return f": go on with more {option[run.ended]}" if run.ended in option else ""


def _bound(run: RunDocument) -> str:
    key = run.ended if run.ended == "minutes" else f"max_{run.ended}"
    found = run.settings.get("search", {}).get(key)
    return f"{found:g}" if isinstance(found, int | float) else "its"


def _of_the_tasks(folder: RunFolder, answer: Answer) -> list[str]:
    if answer.recommended is None or answer.dense is None:
        return []
    kept = [retention(answer.recommended, answer.dense, task) for task in task_names(folder.front)]
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
        return [
            f"The export in {export.get('folder')} is another model, do not deploy it: {export['failed']}"
        ]
    if "not_loaded" in export:
        return [f"The recommended configuration was exported and not verified here: {export['not_loaded']}"]
    return []
