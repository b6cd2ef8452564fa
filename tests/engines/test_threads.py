"""Engines in processes of their own take as many threads as they are told."""

from __future__ import annotations

import os

import pytest

from paretune.commands import main as command_line
from paretune.engines import find_engine
from paretune.engines.environments import Environment
from paretune.engines.running import usable_threads


@pytest.mark.parametrize(
    ("said", "threads"),
    [("3", 3), (" 5 ", 5), ("4,2", 4), ("", None), ("0", None), ("many", None), ("-2", None)],
)
def test_threads_are_those_asked_for_or_all_that_may_be_used(monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_threads() == (threads or allowed)


@pytest.mark.parametrize("name", ["llama.cpp", "onnxruntime", "openvino"])
def test_the_option_of_the_command_line_reaches_every_runner(monkeypatch, tmp_path, name):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = []
    engine = find_engine(name)
    here = Environment(tmp_path, name, "1", "test")
    monkeypatch.setattr("paretune.engines.engine.find_environment", lambda engine: here)
    monkeypatch.setattr(
        "paretune.engines.running.run_in_environment",
        lambda place, runner, request, *more: asked.append(request) or {"answers": [{}], "versions": {}},
    )
    command_line._options(threads=7)
    engine.ask({"task": "predict", "model": "m"})
    assert asked[0]["threads"] == 7
