"""A job that somebody ends takes its engine with it, and leaves nothing in scratch folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from paretune.commands import main as command_line
from tests.processes import alive

ROOT = Path(__file__).resolve().parents[2]

_JOB = """
import signal, sys
# Whoever runs the tests may ignore it (nohup), which a process inherits.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from paretune.commands import main
from paretune.engines.environments import Environment, run_in_environment

def app(**given):
    here = Environment(Path(sys.executable), "engine", "0", "test")
    run_in_environment(here, Path(sys.argv[1]), {"number": sys.argv[2]}, 600.0)

main.app = app
sys.exit(main.main([]))
"""
_ENGINE = """
import json, os, pathlib, sys, time
number = pathlib.Path(json.load(open(sys.argv[1]))["number"])
number.with_suffix(".new").write_text(str(os.getpid()))
number.with_suffix(".new").rename(number)
time.sleep(600)
"""


@pytest.fixture
def job(tmp_path):
    """A command that waits for its engine, and the engine's process."""
    script, number = tmp_path / "engine.py", tmp_path / "number"
    script.write_text(_ENGINE)
    (tmp_path / "scratch").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _JOB, str(script), str(number)],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path / "scratch"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        wait_for(number.is_file)
        yield process, int(number.read_text())
    finally:
        process.kill()
        process.wait()


def wait_for(ready):
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_engine_and_removes_its_scratch_folder(job, tmp_path, number):
    process, engine = job
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    wait_for(lambda: not alive(engine))
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no process that its parent has ended")
def test_an_engine_ends_with_a_job_that_is_killed(job):
    process, engine = job
    process.kill()
    process.wait(30)
    wait_for(lambda: not alive(engine))


@pytest.fixture
def handlers():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_handlers_of_others_stay_and_ours_go(handlers, monkeypatch):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seen = {}

    def app(**given):
        seen.update({number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)})

    monkeypatch.setattr(command_line, "app", app)
    assert command_line.main([]) == 0
    assert seen[signal.SIGHUP] is signal.SIG_IGN
    assert callable(seen[signal.SIGTERM])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_command_runs_in_a_thread_too(monkeypatch):
    found = []
    monkeypatch.setattr(command_line, "app", lambda **given: 0)
    thread = threading.Thread(target=lambda: found.append(command_line.main([])))
    thread.start()
    thread.join(30)
    assert found == [0]
