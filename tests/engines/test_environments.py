"""Where engines are found, and what becomes of a process that fails, hangs or talks."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from paretune.engines.environments import (
    PACKAGES,
    Environment,
    engines_file,
    find_environment,
    run_in_environment,
    variable,
)
from paretune.engines.foreign_process import SILENT, last_word, process_variables, run_silently, run_together
from paretune.spaces.errors import EngineError, EngineUnavailableError
from tests.processes import alive

HERE = Environment(Path(sys.executable), "paretune", "0", "this interpreter")


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch, tmp_path):
    for engine in PACKAGES:
        monkeypatch.delenv(variable(engine), raising=False)
    monkeypatch.delenv("PARETUNE_ENGINES_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))


def script(folder: Path, text: str) -> Path:
    file = folder / "runner.py"
    file.write_text("import json, os, sys, time\nrequest = json.load(open(sys.argv[1]))\n" + text)
    return file


def interpreter(folder: Path) -> Path:
    """Another name of this interpreter, without the packages that its own environment has."""
    file = folder / "python"
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')
    file.chmod(0o755)
    return file


def test_variables_are_named_after_engines():
    assert variable("vllm") == "PARETUNE_VLLM_PYTHON"
    assert variable("llama.cpp") == "PARETUNE_LLAMA_CPP_PYTHON"


def test_this_interpreter_is_the_last_resort():
    found = find_environment("torch")
    assert found is not None
    assert (found.python, found.package, found.source) == (Path(sys.executable), "torch", "this interpreter")
    assert found.version.startswith("2.")
    assert not found.foreign
    assert find_environment("no_such_engine_anywhere") is None


def test_a_variable_wins_over_the_file_and_the_file_over_this_interpreter(monkeypatch, tmp_path):
    file = tmp_path / "engines.toml"
    file.write_text(f'[torch]\npython = "{sys.executable}"\n["llama.cpp"]\npython = "/no/such/python"\n')
    monkeypatch.setenv("PARETUNE_ENGINES_FILE", str(file))
    found = find_environment("torch")
    assert found is not None
    assert found.source == str(file)
    with pytest.raises(EngineUnavailableError, match="/no/such/python"):
        find_environment("llama.cpp")
    monkeypatch.setenv(variable("torch"), sys.executable)
    found = find_environment("torch")
    assert found is not None
    assert found.source == "PARETUNE_TORCH_PYTHON"


def test_an_interpreter_without_the_package_is_refused_not_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv(variable("torch"), str(interpreter(tmp_path)))
    with pytest.raises(EngineError, match="has no package 'torch'"):
        find_environment("torch")


@pytest.mark.parametrize(
    "text", ["not toml", "torch = 3", "[torch]\npython = 3\n", '[torch]\npath = "/bin/sh"\n']
)
def test_a_broken_file_is_refused(monkeypatch, tmp_path, text):
    file = tmp_path / "engines.toml"
    file.write_text(text)
    monkeypatch.setenv("PARETUNE_ENGINES_FILE", str(file))
    with pytest.raises(EngineError, match=r"engines\.toml"):
        find_environment("torch")


def test_the_usual_file_lies_in_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert engines_file() == tmp_path / "paretune" / "engines.toml"
    monkeypatch.setenv("PARETUNE_ENGINES_FILE", str(tmp_path / "absent.toml"))
    with pytest.raises(EngineError, match="is not there"):
        find_environment("torch")


def test_a_script_answers_and_telemetry_is_off(monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    text = "json.dump({'twice': 2 * request['number'], **os.environ}, open(request['answer'], 'w'))"
    variables = {"VLLM_TARGET_DEVICE": "cpu", "DO_NOT_TRACK": "0"}
    found = run_in_environment(HERE, script(tmp_path, text), {"number": 21}, 60.0, variables)
    assert found["twice"] == 42
    assert found["VLLM_TARGET_DEVICE"] == "cpu"
    assert {name: found[name] for name in SILENT} == SILENT
    assert {"VLLM_NO_USAGE_STATS", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE"} <= set(
        SILENT
    )


def test_a_foreign_interpreter_does_not_get_our_search_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    runner = script(tmp_path, "json.dump(dict(os.environ), open(request['answer'], 'w'))")
    foreign = Environment(interpreter(tmp_path), "vllm", "0", "test")
    assert foreign.foreign
    assert "PYTHONPATH" not in run_in_environment(foreign, runner, {}, 60.0)
    assert run_in_environment(HERE, runner, {}, 60.0)["PYTHONPATH"] == str(tmp_path)


def test_a_secret_in_the_environment_does_not_arrive(monkeypatch, tmp_path):
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "OPENAI_API_KEY",
        "VLLM_API_KEY",
        "GITHUB_TOKEN",
        "HTTPS_PROXY",
    ):
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runner = script(tmp_path, "json.dump(dict(os.environ), open(request['answer'], 'w'))")
    for place in (HERE, Environment(interpreter(tmp_path), "vllm", "0", "test")):
        found = run_in_environment(place, runner, {}, 60.0)
        assert "a secret" not in found.values()
        assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("1", "1")
        assert found["PATH"]


def test_files_beside_a_script_do_not_hide_packages(tmp_path):
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('the wrong one')")
    runner = script(tmp_path, "import colorsys\njson.dump({}, open(request['answer'], 'w'))")
    assert run_in_environment(HERE, runner, {}, 60.0) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ValueError('a scheme nobody runs')", "ValueError: a scheme nobody runs"),
        ("print('nearly done'); sys.exit(3)", "nearly done"),
        ("pass", "exit code 0"),
        ("json.dump([1], open(request['answer'], 'w'))", "must hold an object"),
        ("os.kill(os.getpid(), 11)", "signal 11"),
    ],
)
def test_a_failure_is_quoted(tmp_path, text, said):
    with pytest.raises(EngineError, match=said) as raised:
        run_in_environment(HERE, script(tmp_path, text), {}, 60.0)
    assert type(raised.value) is EngineError


@pytest.mark.parametrize("number", [9, 15])
def test_what_others_ended_is_no_failure_of_the_engine(tmp_path, number):
    with pytest.raises(EngineUnavailableError, match=f"was ended by signal {number}"):
        run_in_environment(HERE, script(tmp_path, f"os.kill(os.getpid(), {number})"), {}, 60.0)


def test_children_end_with_a_process_that_takes_too_long(tmp_path):
    text = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(request['child'], 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    child = tmp_path / "child"
    with pytest.raises(EngineUnavailableError, match="longer than 3 s"):
        run_in_environment(HERE, script(tmp_path, text), {"child": str(child)}, 3.0)
    number = int(child.read_text())
    for _ in range(50):
        if not alive(number):
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")


def test_the_cause_is_quoted_and_not_what_wraps_it():
    log = (
        "INFO starting\n"
        "(EngineCore pid=7) ERROR 11-23 [core.py:1] ValueError: No kernel for W4A16\n"
        "Traceback (most recent call last):\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
        "sys:1: ResourceWarning\n"
    )
    assert last_word(log) == "ValueError: No kernel for W4A16"
    assert last_word("") == "exit code 1 without a word"
    assert last_word("torch.OutOfMemoryError: of 3 GB\n") == "torch.OutOfMemoryError: of 3 GB"
    assert json.loads(json.dumps(last_word("AssertionError\n"))) == "AssertionError"


def test_programs_that_are_run_together_end_together(tmp_path):
    numbers = [tmp_path / f"{i}.number" for i in range(2)]

    def sleeps(number):
        says = f"pathlib.Path({str(number)!r}).write_text(str(os.getpid()))"
        command = [sys.executable, "-c", f"import os, pathlib, time; {says}; time.sleep(600)"]
        return run_silently(command, number.with_suffix(".log"), process_variables(foreign=False), 600.0)

    def fails():
        while not all(number.is_file() and number.read_text() for number in numbers):
            time.sleep(0.02)
        raise EngineError("one", "said no", "Ask another")

    started = time.monotonic()
    with pytest.raises(EngineError, match="said no"):
        run_together([*(partial(sleeps, number) for number in numbers), fails], 3)
    assert time.monotonic() - started < 60
    assert not any(alive(int(number.read_text())) for number in numbers)


@pytest.mark.parametrize("at_once", [1, 3])
def test_answers_come_in_the_order_of_the_questions(at_once):
    def after(seconds):
        time.sleep(seconds)
        return seconds

    waits = [0.2, 0.0, 0.1]
    assert run_together([partial(after, seconds) for seconds in waits], at_once) == waits
