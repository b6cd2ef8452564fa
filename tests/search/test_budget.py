"""Whichever bound is met first ends a search; what earlier runs of the folder spent counts."""

from __future__ import annotations

import time

import pytest

from paretune.search.budget import Budget
from paretune.search.records import RecordFile
from paretune.search.settings import SearchSettings
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.measurement import EVALUATION_TOKENS, Fidelity, Record


class Clock:
    """The real clock, which can be put forward."""

    def __init__(self, monkeypatch):
        self.offset = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self.offset)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def _add(records, evaluations, seconds, text="search"):
    tokens = int(evaluations * EVALUATION_TOKENS)
    fidelity = Fidelity(text=text, windows=1 + len(records), window_tokens=tokens)
    record = Record(
        index=len(records), digest=DENSE_CONFIG.digest, name="dense", config=DENSE_CONFIG, sampler="baseline",
        fidelity=fidelity, tokens=tokens, evaluations=evaluations, seconds=seconds, measurements={},
    )  # fmt: skip
    records.append(record)


def _budget(folder, **bounds):
    return Budget(SearchSettings(**bounds), RecordFile(folder))


def test_without_bounds_it_never_ends(tmp_path, clock):
    budget = _budget(tmp_path)
    _add(budget.records, 1e6, 1e9)
    clock.offset = 1e9
    assert budget.seconds_left is None
    assert not budget.reached(10**9)


@pytest.mark.parametrize("most", [0, 1, 7])
def test_candidates(tmp_path, most):
    budget = _budget(tmp_path, max_candidates=most)
    assert [bool(budget.reached(count)) for count in range(9)] == [count >= most for count in range(9)]


def test_minutes(tmp_path, clock):
    budget = _budget(tmp_path, minutes=2)
    assert budget.seconds == pytest.approx(0, abs=5)
    clock.offset = 100.0
    assert budget.seconds_left == pytest.approx(20, abs=5)
    assert not budget.reached(0)
    clock.offset = 120.0
    assert budget.seconds_left <= 0
    assert budget.reached(0)


def test_no_minutes_at_all(tmp_path):
    assert _budget(tmp_path, minutes=0).reached(0)


def test_seconds_of_earlier_runs_count_and_those_of_this_run_once(tmp_path, clock):
    before = _budget(tmp_path, minutes=2)
    _add(before.records, 0.5, 70.0)
    assert before.seconds == pytest.approx(0, abs=5)
    resumed = _budget(tmp_path, minutes=2)
    assert resumed.seconds == pytest.approx(70, abs=5)
    _add(resumed.records, 0.5, 30.0)
    clock.offset = 30.0
    assert resumed.seconds == pytest.approx(100, abs=5)
    assert not resumed.reached(0)
    clock.offset = 50.0
    assert resumed.reached(0)


def test_evaluations_of_this_and_earlier_runs(tmp_path):
    _add(_budget(tmp_path).records, 0.5, 0.0)
    budget = _budget(tmp_path, max_evaluations=1.25)
    assert not budget.reached(0)
    _add(budget.records, 0.5, 0.0)
    assert not budget.reached(0)
    _add(budget.records, 0.25, 0.0)
    assert budget.reached(0)


def test_what_the_report_text_costs_is_no_part_of_it(tmp_path):
    """A search that goes on after its front was judged has as much left as one that never stopped."""
    records = _budget(tmp_path).records
    _add(records, 0.5, 70.0)
    _add(records, 5.0, 500.0, text="report")
    budget = _budget(tmp_path, minutes=2, max_evaluations=0.75)
    assert budget.seconds == pytest.approx(70, abs=5)
    assert not budget.reached(0)
    _add(budget.records, 5.0, 0.0, text="report")
    assert not budget.reached(0)
    _add(budget.records, 0.25, 0.0)
    assert budget.reached(0)


def test_no_candidates_is_no_bound_on_what_comes_before_them(tmp_path):
    budget = _budget(tmp_path, max_candidates=0, max_evaluations=1)
    assert budget.reached(0)
    assert not budget.spent
    _add(budget.records, 1, 0.0)
    assert budget.spent


@pytest.mark.parametrize("tight", [{"minutes": 0}, {"max_evaluations": 0.5}, {"max_candidates": 3}])
def test_whichever_ends_first(tmp_path, tight):
    wide = {"minutes": 1000, "max_evaluations": 1000, "max_candidates": 1000}
    budgets = [_budget(tmp_path, **bounds) for bounds in (wide, {**wide, **tight})]
    _add(budgets[1].records, 0.5, 0.0)
    assert [bool(budget.reached(3)) for budget in budgets] == [False, True]
