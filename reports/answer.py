"""The answer in a sentence: what was found, against the dense model and the best uniform configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paretune.reports.comparison import (
    best_uniform_within,
    cost,
    cost_ratio,
    dense_row,
    is_uniform,
    picked,
    smallest_uniform_as_good,
)
from paretune.reports.latency import contradicts, latency_error
from paretune.reports.reading import RunFolder
from paretune.spaces.metrics import find_metric
from paretune.spaces.numerals import change, digits, percent, quantity
from paretune.spaces.result import FrontFile, Member
from paretune.spaces.statistics import Difference, difference

_ALIKE = 0.02
"""Log ratio below which nobody would call one better."""


@dataclass(frozen=True)
class Answer:
    """What the run recommends and what it has to be compared with.

    Attributes:
        recommended: the recommended member; ``None`` where no member met the limits.
        dense: the model as it is.
        uniform: the best uniform row that is no larger than the recommended configuration.
        margin: KL of that row minus the recommended configuration's, paired by window: positive when the search paid.
        equal: the smallest uniform row whose KL is no higher than the recommended configuration's.
        timed: whether times say which candidate is faster.
        why_none: what is said where nothing is recommended.

    A recommended configuration that is a uniform row itself stands beside none.
    """

    recommended: Member | None
    dense: Member | None
    uniform: Member | None = None
    margin: Difference | None = None
    equal: Member | None = None
    timed: bool = True
    why_none: str = ""


def find_answer(folder: RunFolder) -> Answer:
    """The recommended configuration with the rows to compare it with."""
    front = folder.front
    recommended, dense = picked(front), dense_row(front)
    if recommended is None:
        read = [member for member in front.members if member.kind != "dense"]
        unread = not (front.limits or read) and dense is not None
        why = "Nothing but the dense model was read before the search ended: search on with a larger bound."
        return Answer(None, dense, why_none=why if unread else "No candidate meets the limits.")
    timed = not contradicts(latency_error(folder.run.latency_checks))
    size, kl = recommended.measurements.get("weight_bytes"), recommended.measurements.get("kl")
    if size is None or kl is None or is_uniform(recommended):
        return Answer(recommended, dense, timed=timed)
    uniform = best_uniform_within(front, size.value)
    margin = None if uniform is None else difference(uniform.measurements["kl"], kl)
    return Answer(recommended, dense, uniform, margin, smallest_uniform_as_good(front, kl.value), timed)


def size_sentence(answer: Answer) -> str:
    """``is 1.98 MB, 27 % of the dense model's 7.35 MB``."""
    if answer.recommended is None or (size := answer.recommended.value("weight_bytes")) is None:
        return ""
    full = None if answer.dense is None else answer.dense.value("weight_bytes")
    if not full:
        return f"weighs {quantity(size, 'B')}"
    return f"weighs {quantity(size, 'B')}, {percent(size / full)} of the dense model's {quantity(full, 'B')}"


def quality_sentence(answer: Answer) -> str:
    """How far from dense, and against the best uniform of the same bytes."""
    if answer.recommended is None or (kl := answer.recommended.value("kl")) is None:
        return ""
    text = f"differs from it by a KL of {digits(kl)} nat per token"
    return f"{text}, {uniform_words(answer)}" if answer.uniform is not None else text


def uniform_words(answer: Answer) -> str:
    """``2.1 times less than uniform-3-hqq, the best uniform configuration that is no larger``."""
    if answer.recommended is None or answer.uniform is None or answer.margin is None:
        return "no uniform configuration is that small"
    own, other = answer.recommended.value("kl"), answer.uniform.value("kl")
    what = f"{answer.uniform.name}, the best uniform configuration that is no larger"
    if not answer.margin.clear:
        return f"which cannot be told from {what}"
    if not own or not other:
        return f"beside {digits(other or 0.0)} of {what}"
    way, factor = ("less", other / own) if other > own else ("more", own / other)
    if factor < 1.2:
        return f"{100 * abs(1 - own / other):.0f} % {way} than {what}"
    return f"{digits(factor, 2)} times {way} than {what}"


def speed_sentence(answer: Answer) -> str:
    """``decodes a token in 1.82 ms, 1.4 times faster (predicted)``."""
    if (
        answer.recommended is None
        or not answer.timed
        or (found := cost(answer.recommended, "tpot_s")) is None
    ):
        return ""
    own, predicted = found
    text = f"decodes a token in {quantity(own.value, 's')}"
    ratio = None if answer.dense is None else cost_ratio(answer.recommended, answer.dense, "tpot_s")
    if ratio is not None:
        text += f", {speed_words(ratio[0])}"
    return f"{text} ({'predicted' if predicted else 'measured'})"


def speed_words(ratio: float) -> str:
    """A time that is ``ratio`` times the dense model's, in words."""
    if abs(ratio - 1) < 0.02:
        return "as fast as dense"
    way, factor = ("faster", 1 / ratio) if ratio < 1 else ("slower", ratio)
    if factor < 1.2:
        return f"{100 * (factor - 1):.0f} % {way} than dense"
    return f"{digits(factor, 2)} times {way} than dense"


def equal_quality_words(answer: Answer) -> str:
    """``−12 % bytes against uniform-4, the smallest uniform configuration as good``, or nothing."""
    if answer.recommended is None or answer.equal is None:
        return ""
    own, other = answer.recommended.value("weight_bytes"), answer.equal.value("weight_bytes")
    if not own or not other:
        return ""
    return (
        f"{change(own / other)} bytes against {answer.equal.name}, the smallest uniform configuration as good"
    )


def advantage_words(front: FrontFile) -> str:
    """What the front is worth beside uniform configurations; empty where they cannot be compared."""
    members, found = [member for member in front.members if member.on_front], front.advantage
    if members and all(is_uniform(member) or member.kind == "dense" for member in members):
        return "The front holds uniform configurations alone, so there is nothing to compare with them."
    if found is None:
        return ""
    metric, unit = find_metric(found.metric).label, find_metric(found.cost).unit
    low, high = quantity(found.low, unit), quantity(found.high, unit)
    where = f"At {low}" if low == high else f"From {low} to {high}"
    if abs(math.log(found.ratio)) < _ALIKE:
        return (
            f"{where} the front loses as much {metric} as the best uniform configuration that costs as much."
        )
    way, factor = ("less", found.ratio) if found.ratio > 1 else ("more", 1 / found.ratio)
    return (
        f"{where} the front loses {digits(factor, 2)} times {way} {metric} than the best uniform configuration that "
        "costs as much (geometric mean, report text)."
    )


def sentence(answer: Answer) -> str:
    """The answer without the name in front of it; a whole sentence where nothing is recommended."""
    if answer.recommended is None:
        return f"{answer.why_none} The front below shows how near the run came."
    if answer.recommended.kind == "dense":
        return "is the model as it is: nothing that was found is worth its loss."
    parts = [
        text for text in (size_sentence(answer), quality_sentence(answer), speed_sentence(answer)) if text
    ]
    if not parts:
        return "is the recommended configuration."
    *others, last = parts
    return f"{', '.join(others)}, and {last}." if others else f"{last}."
