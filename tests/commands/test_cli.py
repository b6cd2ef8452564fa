"""The command line: help, defaults, and refusals with exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from typing import get_type_hints

import pytest
from typer.main import get_command

from paretune.commands.main import _CODES, app, main, with_default_command
from paretune.commands.search import search
from paretune.engines import engine_names
from paretune.pipeline.run_file import DEFAULT_MINUTES, EMBEDDED_RUN, RunFile, settings_of
from paretune.spaces.target import Workload
from tests.commands.small_runs import ROOT, paretune


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("paretune")


def test_help_names_every_command_and_loads_nothing_heavy():
    found = paretune("--help")
    assert found.returncode == 0
    for command in (
        "search",
        "select",
        "report",
        "export",
        "profile",
        "inspect",
        "advise",
        "check",
        "transform",
    ):
        assert command in found.stdout
    program = (
        "import sys, paretune.commands.main, paretune.search, paretune.spaces, paretune.reports\n"
        "heavy = {'torch', 'transformers', 'optuna', 'lm_eval', 'pandas', 'plotly'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    lean = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert lean.returncode == 0, lean.stderr


def test_a_mistyped_command_is_no_model(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["serach", "--minutes", "1"]) == 2
    assert "Did you mean 'search'?" in capsys.readouterr().err
    (tmp_path / "serach").mkdir()
    for model in (["serach"], ["owner/serach"], ["embedded"], ["--export"], ["--engine", "vllm"]):
        assert with_default_command(model) == ["search", *model]


def test_help_tells_the_defaults():
    hints = get_type_hints(search, include_extras=True)
    run, told = RunFile(model="embedded"), {}
    for option in ("minutes", "bits", "embedding_bits", "group_size", "window_tokens", "device", "workload"):
        told[option] = hints[option].__metadata__[0].help.partition("Default: ")[2].removesuffix(".")
    assert told["bits"] == ",".join(map(str, run.space.bits))
    assert told["embedding_bits"] == ",".join(map(str, run.space.embedding_bits))
    assert told["group_size"] == str(run.space.group_size)
    assert told["window_tokens"] == str(run.texts.window_tokens)
    assert told["device"] == run.device
    usual, embedded = told["workload"].split("; embedded model: ")
    assert Workload.parse(usual) == run.workload
    assert Workload.parse(embedded) == Workload.model_validate(EMBEDDED_RUN["workload"])
    assert settings_of({"model": "mine"}).search.minutes == DEFAULT_MINUTES
    usual = f"{DEFAULT_MINUTES:g} where nothing else bounds the search"
    assert told["minutes"] == f"{usual}; embedded model: {EMBEDDED_RUN['search']['minutes']}"


def test_help_names_every_engine():
    # The help is written by hand: asking the register takes longer than showing it.
    option = get_type_hints(search, include_extras=True)["engine"].__metadata__[0]
    named = option.help.removeprefix("Engine: ").removesuffix(".")
    assert set(re.split(r", | or ", named)) == set(engine_names())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("search", "no/such/folder/here"), "neither a folder nor a hub id"),
        (("search", "embedded", "--device", "h1000"), "h100"),
        (("search", "embedded", "--engine", "vlllm"), "torch-cpu"),
        (("search", "embedded", "--sampler", "nsga22"), "nsga2"),
        (("search", "embedded", "--objective", "kl", "--objective", "speed"), "speed"),
        (("search", "embedded", "--limit", "memory<6GiB"), "METRIC<=NUMBER"),
        (("search", "embedded", "--bits", "4,x"), "whole numbers"),
        (("search", "embedded", "--bits", "7"), "7"),
        (("search", "embedded", "--rule", "*.down_proj"), "PATTERN:key=value"),
        (("search", "embedded", "--rule", "*.down_proj:bit=4"), "bit"),
        (("search", "embedded", "--rule", "*.no_such_layer:bits=4"), "no_such_layer"),
        (("search", "embedded", "--limit", "kl<=0.1", "--limit", "kl>=0.2"), "no value meets both"),
        (("search", "embedded", "--workload", "batch=0"), "batch"),
        (("inspect", "embedded", "--engine", "none"), "torch-cpu"),
        (("advise", "embedded", "--device", "h1000"), "h100"),
        (("select", "no-such-run"), "no-such-run"),
        (("check", "embedded", "--base", "nowhere/at/all", "--text", __file__), "nowhere"),
    ],
)
def test_bad_input_is_refused_with_exit_code_2(arguments, expected, tmp_path):
    found = paretune(*arguments, *(("--out", tmp_path / "run") if arguments[0] == "search" else ()))
    assert found.returncode == 2, found.stderr
    assert expected in found.stderr
    assert "Traceback" not in found.stderr
    assert "rule:" in found.stderr
    assert not (tmp_path / "run" / "records.jsonl").exists()


def test_a_missing_text_and_a_short_text_are_refused(model, tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("a<|endoftext|>b<|endoftext|>c")
    for more, expected in (((), "no calibration"), (("--text", short), "windows of")):
        assert main(["search", str(model), "--out", str(tmp_path / "run"), *map(str, more)]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--engine", "vllm", "--device", "h100", "--objective", "kl", "--objective", "tpot"), "times of vllm"),
        (("--engine", "vllm", "--device", "h100", "--limit", "ttft<=1s"), "predicts times of vllm"),
        (("--device", "h100", "--limit", "tpot<=1s"), "measured on the device itself"),
        (("--engine", "llama.cpp", "--limit", "tpot<=1s", "--workload", "batch=2,prompt=8,output=8"), "decodes one"),
        (("--objective", "kl", "--objective", "energy"), "objective energy_j_per_token"),
        (("--limit", "task.recall>=0.5"), "task 'recall'"),
        (("--search-text", "no-such-text"), "text no-such-text"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_succeed_is_refused_before_anything_is_loaded(
    more, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "paretune.pipeline.workbench.load_for_scoring", lambda *_, **__: pytest.fail("the model was loaded")
    )
    assert main(["search", "embedded", "--out", str(tmp_path / "run"), *more]) == 2
    told = capsys.readouterr().err
    assert expected in told
    assert not (tmp_path / "run").exists()


def test_a_run_folder_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["search", "embedded", "--out", str(tmp_path / "file" / "below")]) == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


def test_a_method_that_does_not_exist_is_refused_at_once(model, tmp_path, capsys):
    assert main(["search", str(model), "--out", str(tmp_path / "run"), "--method", "gptqq"]) == 2
    assert "Known: awq" in capsys.readouterr().err
    assert not (tmp_path / "run" / "bank").exists()


def test_an_unknown_key_of_a_run_file_is_named(model, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"model: {model}\nsearch: {{minuets: 3}}\n")
    found = paretune("search", "--run-file", path, "--out", tmp_path / "run")
    assert found.returncode == 2
    assert "minuets" in found.stderr


def test_the_shell_is_told_commands_engines_and_metrics():
    def completed(words, place):
        asked = {"_PARETUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        program = "from paretune.commands.main import main; main([])"
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **asked},
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout.split()

    assert completed("paretune se", 1) == ["search", "select"]
    assert completed("paretune search --engine vl", 3) == ["vllm"]
    assert "kl_p99" in completed("paretune check --limit kl", 3)


def test_what_is_no_command_searches_only_if_it_is_a_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("frobnicate", "./missing", "a/b/c", "../up/x"):
        assert main([word]) == 2
        assert "is not a known command or a model" in capsys.readouterr().err
    (tmp_path / "frobnicate").mkdir()
    assert with_default_command(["frobnicate"]) == ["search", "frobnicate"]


def test_every_option_says_what_it_takes_and_means_one_thing():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert _CODES in readme
    meanings: dict[str, set[str]] = {}
    for command in get_command(app).commands.values():
        options = [found for found in command.params if found.param_type_name == "option"]
        assert any("--json" in option.opts for option in options), command.name
        for option in options:
            assert option.help, (command.name, option.opts)
            # A choice shows its words in place of a kind.
            assert option.metavar or option.is_flag or option.opts[0] in ("--protocol", "--prompts"), (
                option.opts
            )
            meanings.setdefault(option.opts[0], set()).add(option.help.split(",")[0].split(":")[0])
    # What a text, a folder or a file is for is said by each command; a bound, an item or a run is the same everywhere.
    for word in (
        "--task-limit",
        "--engine",
        "--device",
        "--revision",
        "--quiet",
        "--json",
        "--tasks",
        "--task",
    ):
        assert len(meanings[word]) == 1, (word, meanings[word])
    assert meanings["--limit"] == {"Bound"}
    assert "--run" in meanings
    assert "--run-file" in meanings
