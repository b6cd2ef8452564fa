"""Limits that stay broken."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from paretune.monitoring.limits import Limit, Streaks

DRIFT = Limit(metric="drift_nats", limit=0.01, in_a_row=3)
SLOW = Limit(metric="latency_s", limit=1.0, in_a_row=2)


def test_only_an_unbroken_row_counts():
    streaks = Streaks([DRIFT])
    for value in (1.0, 1.0, 0.01, 1.0, 1.0):
        assert streaks.add({"drift_nats": value}) is None
    assert streaks.count(DRIFT) == 2
    assert streaks.add({"drift_nats": 0.011}) == DRIFT


def test_what_is_not_known_neither_breaks_nor_mends():
    streaks = Streaks([DRIFT])
    found = [streaks.add({"drift_nats": value}) for value in (1.0, None, 1.0, None, None, 1.0)]
    assert found == [None] * 5 + [DRIFT]


def test_infinity_and_no_number_break_a_limit():
    assert DRIFT.broken_by(math.inf)
    assert DRIFT.broken_by(math.nan)
    assert not DRIFT.broken_by(0.01)


def test_each_limit_has_its_own_row():
    streaks = Streaks([DRIFT, SLOW])
    assert streaks.add({"drift_nats": 0.0, "latency_s": 2.0}) is None
    assert streaks.add({"drift_nats": 1.0, "latency_s": 2.0}) == SLOW
    assert streaks.count(DRIFT) == 1


@pytest.mark.parametrize(
    "wrong", [{"limit": -1.0}, {"limit": math.inf}, {"in_a_row": 0}, {"metric": "speed"}]
)
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValidationError):
        Limit(**{"metric": "drift_nats", "limit": 0.1, **wrong})
