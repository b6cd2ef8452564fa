"""A search that was stopped goes on as the same search: from what it knew, not by being asked again."""

from __future__ import annotations

import json
import shutil

import pytest

from paretune.evaluators.cost import CostEvaluator
from paretune.search.candidates import Candidates
from paretune.search.records import FILE, RecordFile
from paretune.search.settings import SearchSettings
from paretune.search.trials import FILE as STATE
from paretune.search.trials import Trials
from paretune.spaces.errors import RunError
from paretune.spaces.measurement import Measurement
from tests.search.fake_study import FakeQuality, make_study

TIMED = ("kl", "tpot", "bytes")


class Times:
    """Times that depend on the configuration alone, as those of a predictor that was kept do."""

    def predict(self, spec, config, workload):
        bits = sum(choice.weight.num_bits for choice in config.layers.values())
        seconds = 1e-3 + 1e-5 * (16 * len(spec.block_linears) - bits % 37)
        measured = Measurement(value=seconds, unit="s", source="predicted", by="fake")
        return {"ttft_s": measured, "tpot_s": measured}


@pytest.fixture(autouse=True)
def timed(monkeypatch):
    monkeypatch.setattr(
        "tests.search.fake_study.CostEvaluator", lambda spec, load: CostEvaluator(spec, load, Times())
    )


def search(folder, candidates=30, **settings):
    study = make_study(folder, SearchSettings(objectives=TIMED, max_candidates=candidates, **settings))
    study.run()
    return study


def essence(folder):
    """Everything of a record but its time."""
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "check")} for line in lines]


class Stopped(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.mark.parametrize("sampler", ["paretune", "additive", "nsga2", "tpe", "random"])
def test_a_search_on_times_that_is_stopped_anywhere_is_the_undisturbed_one(tmp_path, monkeypatch, sampler):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    search(whole, sampler=sampler)
    evaluated = FakeQuality.evaluate
    paid = []
    for after in (3, 40, 41, 7, 9, 2):  # readings until the next kill

        def until_killed(self, config, fidelity, after=after):
            if self.read == after:
                raise Stopped
            paid.append((config.digest, fidelity.name))
            return evaluated(self, config, fidelity)

        monkeypatch.setattr(FakeQuality, "evaluate", until_killed)
        with pytest.raises(Stopped):
            search(stopped, sampler=sampler)
    monkeypatch.setattr(FakeQuality, "evaluate", evaluated)
    known = len(RecordFile(stopped))
    assert [(line["digest"]) for line in essence(stopped)] == [digest for digest, _ in paid]
    resumed = search(stopped, sampler=sampler)
    assert essence(stopped) == essence(whole)
    assert resumed.scorer.quality.read == len(essence(stopped)) - known
    by_digest = {}
    for record in RecordFile(stopped):
        by_digest.setdefault(record.digest, set()).add(record.measurements["tpot_s_predicted"].value)
    assert all(len(times) == 1 for times in by_digest.values())


@pytest.mark.parametrize("sampler", ["paretune", "nsga2"])
def test_nothing_is_asked_for_again(tmp_path, monkeypatch, sampler):
    search(tmp_path, sampler=sampler, candidates=12)
    asked, ask = [], Candidates.ask
    monkeypatch.setattr(Candidates, "ask", lambda self, trial: (asked.append(trial), ask(self, trial))[1])
    search(tmp_path, sampler=sampler, candidates=15)
    assert asked == [12, 13, 14]
    trials = [record.trial for record in RecordFile(tmp_path) if record.trial is not None]
    assert trials == list(range(15))


def test_trials_may_end_in_another_order_than_they_began_in(tmp_path):
    """What a search with several workers leaves: trial 1 has no record, trial 2 has."""
    trials = Trials(tmp_path, ())
    for point in ((0, 1), (1, 0), (1, 1)):
        trials.ask(point, {"left": len(point)})
    resumed = Trials(tmp_path, {0, 2})
    assert resumed.pending == {1: (1, 0)}
    assert (resumed.asked, dict(resumed.state)) == (3, {"left": 2})


def test_a_state_that_does_not_fit_the_records_is_not_used(tmp_path):
    """Records are the truth: without those of trials that were told, the search goes on from what is there."""
    trials = Trials(tmp_path, ())
    for point in ((0, 1), (1, 0)):
        trials.told(trials.ask(point, {"left": 1}))
    without = Trials(tmp_path, ())
    assert (without.asked, without.pending, dict(without.state)) == (0, {}, {})


def test_a_search_goes_on_without_its_state(tmp_path):
    search(tmp_path, candidates=5)
    (tmp_path / STATE).unlink()
    search(tmp_path, candidates=10)
    trials = [record.trial for record in RecordFile(tmp_path) if record.trial is not None]
    assert trials == list(range(10))


def test_a_damaged_state_is_refused(tmp_path):
    search(tmp_path / "run", candidates=5)
    content = (tmp_path / "run" / STATE).read_bytes()
    for place in range(0, len(content), 97):
        folder = shutil.copytree(tmp_path / "run", tmp_path / str(place))
        (folder / STATE).write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(RunError) as refused:
            search(folder, candidates=6)
        assert refused.value.remedy
