"""Limits: units, contradictions, and texts that cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.spaces.errors import LimitError, UnknownNameError
from paretune.spaces.limits import Limit, check_limits
from paretune.spaces.metrics import METRICS


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("memory<=6GiB", "memory_bytes", 6 * 2**30),
        ("kl<=0.1", "kl", 0.1),
        ("tpot <= 20ms", "tpot_s", 0.02),
        ("top1_agreement>=95%", "top1_agreement", 0.95),
        ("task.copying>=0.5", "task.copying", 0.5),
        ("bits<=4.25", "average_bits", 4.25),
        ("energy<=1.5mJ", "energy_j_per_token", 0.0015),
        ("weights<=6e9", "weight_bytes", 6e9),
    ],
)
def test_units(text, metric, bound):
    limit = Limit.parse(text)
    assert limit.metric == metric
    assert limit.bound == pytest.approx(bound)
    assert " " not in limit.text


@pytest.mark.parametrize(
    "text", ["", "kl", "kl<0.1", "kl<=", "kl<=a", "kl<=1e999", "memory<=6s", "kl<=0.1GiB", "kl<=--1"]
)
def test_unreadable_limits(text):
    with pytest.raises(LimitError) as caught:
        Limit.parse(text)
    assert caught.value.remedy


def test_unknown_metric_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'perplexity'"):
        Limit.parse("perplexty<=3")


@given(bound=st.floats(0.01, 100), value=st.floats(0.01, 100))
def test_violation_is_positive_exactly_when_broken(bound, value):
    assert (Limit.parse(f"kl<={bound!r}").violation(value) > 0) == (value > bound)
    assert (Limit.parse(f"top1_agreement>={bound!r}").violation(value) > 0) == (value < bound)


def test_contradictory_limits():
    check_limits((Limit.parse("kl<=0.2"), Limit.parse("kl>=0.1"), Limit.parse("bits>=3")))
    with pytest.raises(LimitError, match="no value meets both"):
        check_limits((Limit.parse("kl<=0.1"), Limit.parse("kl>=0.2")))


@pytest.mark.parametrize("operator", ["<=", ">="])
@pytest.mark.parametrize("metric", [*METRICS, "task.copying"])
@given(value=st.floats(-1e300, 1e300) | st.floats(0, 1e12) | st.integers(0, 2**50).map(float))
def test_a_loosened_limit_is_read_and_met(metric, operator, value):
    limit = Limit.parse(f"{metric}{operator}0")
    again = Limit.parse(limit.loosened(value))
    assert (again.metric, again.operator) == (metric, operator)
    assert again.violation(value) <= 0


@pytest.mark.parametrize(
    ("limit", "value", "loosened"),
    [
        ("memory<=6", 1897632.0, "memory_bytes<=1897632"),
        ("memory>=6GB", 1897632.5, "memory_bytes>=1897632"),
        ("kl<=0.01", 0.0123456789, "kl<=0.0123457"),
        ("kl>=0.1", 0.0123456789, "kl>=0.0123456"),
        ("ppl<=1", 100.0, "perplexity<=100"),
    ],
)
def test_a_loosened_limit_is_short(limit, value, loosened):
    assert Limit.parse(limit).loosened(value) == loosened
