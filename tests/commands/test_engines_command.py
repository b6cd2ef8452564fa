"""``paretune engines``: every registered engine has a row, and what is missing says how to get it."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

from paretune import engines
from paretune.commands.engines import engines as command
from paretune.commands.engines import show
from paretune.engines.environments import PACKAGES, variable
from paretune.engines.forms import form_names
from paretune.pipeline.inspection import engine_rows


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch, tmp_path):
    for engine in PACKAGES:
        monkeypatch.delenv(variable(engine), raising=False)
    monkeypatch.delenv("PARETUNE_ENGINES_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture
def registered(monkeypatch):
    """Three engines: here, in an environment of its own, and one that is asked for by name."""
    return only(monkeypatch, "torch-cpu", "vllm")


def only(monkeypatch, *names):
    """Leave these engines alone registered."""
    kept = {name: engines.ENGINES._places[name] for name in names}
    monkeypatch.setattr(engines.ENGINES, "_places", kept)
    return kept


def printed(rows):
    console = Console(file=io.StringIO(), width=110, color_system=None)
    show(rows, console)
    return console.file.getvalue()


def test_every_engine_has_a_row_and_this_interpreter_is_named(registered, capsys):
    command(json=True)
    rows = {row["engine"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(registered)
    torch = rows["torch-cpu"]
    assert torch["found"]
    assert torch["runs"]
    assert torch["python"] == sys.executable
    assert torch["version"].startswith("torch 2.")
    assert torch["reason"] == ""
    assert torch["searches"] == "here"
    assert rows["vllm"]["searches"] in ("here", "with --device NAME")


def test_what_is_missing_says_how_to_install_it(registered, monkeypatch):
    monkeypatch.setattr("paretune.engines.environments.find_spec", lambda name: None)
    rows = engine_rows()
    vllm = next(row for row in rows if row.engine == "vllm")
    assert not vllm.found
    assert not vllm.runs
    assert "PARETUNE_VLLM_PYTHON" in vllm.reason
    text = printed(rows)
    assert "vllm: install vllm" in text
    assert "environment of its own" in text


def test_an_interpreter_that_is_not_there_is_a_row_and_no_error(registered, monkeypatch):
    monkeypatch.setenv("PARETUNE_VLLM_PYTHON", "/no/such/python")
    row = next(row for row in engine_rows() if row.engine == "vllm")
    assert not row.found
    assert "/no/such/python" in row.reason
    assert "PARETUNE_VLLM_PYTHON" in row.reason


def test_the_table_names_versions_and_interpreters(registered):
    text = printed(engine_rows())
    assert "torch-cpu" in text
    assert "this interpreter" in text
    assert sys.executable in text
    assert "yes" in text


def test_forms_of_transformers_say_what_they_need(monkeypatch):
    only(monkeypatch, "transformers")
    monkeypatch.setenv("PARETUNE_GPTQMODEL_PYTHON", "/no/such/python")
    (row,) = engine_rows()
    assert list(row.forms) == list(form_names())
    assert row.forms["compressed-tensors"] == ""
    assert "/no/such/python" in row.forms["gptq"]
    text = printed([row])
    assert "transformers loads the containers compressed-tensors" in text
    assert "transformers does not load the container awq: /no/such/python" in text
