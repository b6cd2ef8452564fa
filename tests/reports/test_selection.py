"""The best member under limits, and the nearest where there is none."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from paretune.reports.reading import read_front
from paretune.reports.selection import broken_limits, refusal, select_member
from paretune.spaces.errors import LimitError, UnknownNameError
from paretune.spaces.limits import Limit
from paretune.spaces.result import FrontFile


@pytest.fixture
def front(shared_run: Path) -> FrontFile:
    return read_front(shared_run)


def limits(*texts: str) -> tuple[Limit, ...]:
    return tuple(Limit.parse(text) for text in texts)


def test_without_limits_it_is_the_pick(front: FrontFile) -> None:
    found = select_member(front, ())
    assert found.member is not None
    assert found.member.name == front.recommended


def test_best_quality_under_a_size(front: FrontFile) -> None:
    found = select_member(front, limits("weight_bytes<=2.5MB")).member
    fitting = [m for m in front.members if (m.value("weight_bytes") or 0.0) <= 2.5e6]
    assert found is not None
    assert found.value("kl") == min(m.value("kl") for m in fitting)  # type: ignore[type-var]


def test_smallest_under_a_quality(front: FrontFile) -> None:
    found = select_member(front, limits("kl<=0.1"), "bytes").member
    good = [m for m in front.members if (m.value("kl") or 0.0) <= 0.1]
    assert found is not None
    assert found.value("weight_bytes") == min(m.value("weight_bytes") for m in good)  # type: ignore[type-var]


def test_metrics_to_maximize(front: FrontFile) -> None:
    found = select_member(front, limits("memory<=3MB"), "task.recall").member
    fitting = [m for m in front.members if (m.value("memory_bytes") or 0.0) <= 3e6]
    scores = [score for m in fitting if (score := m.value("task.recall")) is not None]
    assert found is not None
    assert found.value("task.recall") == max(scores)


def test_predictions_stand_in_and_are_named(front: FrontFile) -> None:
    found = select_member(front, limits("ttft<=1s"), "bytes")
    assert found.predicted == ("ttft_s",)


def test_the_nearest_is_named_when_there_is_none(front: FrontFile) -> None:
    found = select_member(front, limits("kl<=0.001", "weight_bytes<=2MB"))
    assert found.member is None
    assert found.nearest is not None
    assert found.hopeless == ()
    error = refusal(found)
    assert error.exit_code == 3
    assert found.nearest.name in error.remedy
    # The remedy works when it is followed.
    loosened = [text for text in shlex.split(error.remedy) if "<=" in text and "is" not in text][
        -len(found.broken) :
    ]
    kept = [
        one for one in limits("kl<=0.001", "weight_bytes<=2MB") if one not in {b.limit for b in found.broken}
    ]
    again = select_member(front, (*kept, *limits(*loosened)))
    assert again.member is not None


def test_what_no_member_meets_is_told(front: FrontFile) -> None:
    found = select_member(front, limits("weight_bytes<=1kB"))
    assert [one.limit.text for one in found.hopeless] == ["weight_bytes<=1kB"]
    assert found.hopeless[0].value == min(m.value("weight_bytes") for m in front.members)  # type: ignore[type-var]
    assert "at best" in refusal(found).rule


def test_a_limit_on_what_was_never_measured_is_refused(front: FrontFile) -> None:
    with pytest.raises(LimitError, match="was not measured in this run"):
        select_member(front, limits("energy<=1J"))


def test_unmeasured_members_do_not_meet_a_limit(front: FrontFile) -> None:
    pruned = next(m for m in front.members if m.name == "pruned-blocks5")
    assert broken_limits(pruned, limits("task.recall>=0"))[0].value is None


def test_contradictions_and_unknown_metrics(front: FrontFile) -> None:
    with pytest.raises(LimitError, match="no value meets both"):
        select_member(front, limits("kl<=0.1", "kl>=0.2"))
    with pytest.raises(UnknownNameError, match="Did you mean 'latency'"):
        select_member(front, (), "latancy")


def test_an_empty_front_is_refused(front: FrontFile) -> None:
    empty = front.model_copy(update={"members": ()})
    with pytest.raises(LimitError):
        select_member(empty, ())


def test_limits_on_quality_alone_ask_for_the_cheapest(front: FrontFile) -> None:
    cheapest = select_member(front, limits("kl<=0.1"))
    assert cheapest.metric == "weight_bytes"
    assert cheapest.member == select_member(front, limits("kl<=0.1"), "bytes").member
    both = select_member(front, limits("kl<=0.1", "weight_bytes<=2.5MB"))
    assert both.metric == "kl"
