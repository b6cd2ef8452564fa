"""What several exports predict: one that is refused, or ends the process, does not take the others along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.engines import runner, running
from paretune.engines.predictions import Predictions
from paretune.engines.transformers_engine import Transformers
from paretune.spaces.errors import EngineAbsentError, EngineError

IDS = torch.zeros(1, 1, dtype=torch.int64)


@pytest.fixture
def asked(monkeypatch):
    """Names of the models of every process that was started: ``refused`` is refused, ``crashes`` ends its process."""
    runs = []

    def run(self, jobs):
        names = [Path(job["model"]).name for job in jobs]
        runs.append(names)
        if "crashes" in names:
            raise EngineError("runner", "failed: killed by signal 11", "See its documentation")
        for job, name in zip(jobs, names, strict=True):
            if name.startswith("good"):
                np.save(job["out"], np.full((1, 1, 4), -np.log(4.0), np.float32))
        return [{} if name.startswith("good") else {"error": "ValueError: no"} for name in names], {}

    monkeypatch.setattr(Transformers, "run", run)
    return runs


def predicted(*names, **options):
    return running.predictions_of(Transformers(), [({"model": name}, 4) for name in names], IDS, **options)


def test_a_refused_export_stands_in_the_place_of_its_predictions(asked):
    first, second, third = predicted("good-1", "refused", "good-2")
    assert isinstance(first, Predictions)
    assert isinstance(third, Predictions)
    assert "ValueError: no" in str(second)
    assert asked == [["good-1", "refused", "good-2"]]
    with pytest.raises(EngineError, match="ValueError: no"):
        running.only([second])


def test_a_package_that_is_not_there_says_nothing_of_the_export(tmp_path):
    """By the runner itself: what an engine cannot import is no fault of what it was given."""
    for kind, module, expected in (("ImportError", "torchvision", True), ("ValueError", "x", False)):
        loader = tmp_path / f"{kind}.py"
        loader.write_text(
            f"def load(job, tokens):\n    raise {kind}('no {module}\\n  For further information visit http')\n"
        )
        ids = tmp_path / "ids.npy"
        np.save(ids, IDS.numpy())
        answers = runner.main({
            "loader": str(loader), "threads": 1, "device": "cpu",
            "jobs": [{"task": "predict", "model": "x", "ids": str(ids)}],
        })["answers"]  # fmt: skip
        assert answers[0]["error"] == f"{kind}: no {module}"
        error = running.refused(Transformers(), {"model": "x"}, answers[0])
        assert isinstance(error, EngineAbsentError) == expected


def test_one_that_ends_the_process_is_told_from_the_others(asked):
    first, second = predicted("good", "crashes")
    assert isinstance(first, Predictions)
    assert "signal 11" in str(second)
    assert asked == [["good", "crashes"], ["good"], ["crashes"]]


def test_processes_are_apart_where_the_engine_says_so(asked):
    predicted("good-1", "good-2", processes=1)
    assert asked == [["good-1"], ["good-2"]]
    assert predicted() == []


@pytest.mark.parametrize(("said", "seconds"), [("", 3600.0), (" 90 ", 90.0), ("0.5", 0.5)])
def test_the_time_that_a_process_has_is_an_option(monkeypatch, said, seconds):
    monkeypatch.setenv(running.TIMEOUT_VARIABLE, said)
    assert running.timeout_s() == seconds


@pytest.mark.parametrize("said", ["soon", "0", "-3", "inf", "nan"])
def test_no_time_at_all_is_refused(monkeypatch, said):
    monkeypatch.setenv(running.TIMEOUT_VARIABLE, said)
    with pytest.raises(EngineError, match="seconds above 0"):
        running.timeout_s()
