"""What a search says before it starts, what bounds it where nobody does, and how it goes on."""

from __future__ import annotations

import json

import pytest

from paretune.commands.main import main
from paretune.compressors.bank import Bank
from paretune.pipeline.plan import Plan
from paretune.pipeline.run_file import DEFAULT_MINUTES, settings_of
from tests.commands.small_runs import RULE, small_arguments


def test_a_dry_run_says_what_is_ahead_and_leaves_nothing(model, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Bank, "open", lambda *given: pytest.fail("a bank was begun"))
    out = tmp_path / "run"
    arguments = small_arguments(model, text, out, *RULE, "--dry-run")
    assert main(arguments) == 0, capsys.readouterr().err
    told = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in told[1:]} >= {"search", "in", "disk", "memory"}
    assert "--minutes" in next(line for line in told if line.split()[0] == "search")
    assert max(len(line) for line in told if line.startswith("  ")) <= 80
    assert main([*arguments, "--json", "--quiet"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["seconds"]["search"] == pytest.approx(3.0)
    assert plan["seconds"]["bank"] > 0
    assert 0 < plan["disk_bytes"] < plan["disk_free"]
    assert plan["memory_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_what_was_announced_is_kept_and_a_made_bank_costs_nothing_again(model, text, run, capsys):
    document = json.loads((run / "run.json").read_text())
    ahead, spent = document["plan"]["seconds"], document["spent"]
    assert set(ahead) - {"profile", "latency", "tasks", "export"} <= set(spent)
    assert main([*small_arguments(model, text, run, *RULE), "--dry-run", "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)["seconds"]
    assert again["bank"] == 0
    assert again["search"] < 3.0


def test_lines_fit_a_terminal_and_say_more_where_nothing_would_be_proposed():
    stages = ("bank", "dense", "profile", "search", "judging", "tasks", "export")
    remarks = ("nothing mixed is tried",)
    plan = Plan(dict.fromkeys(stages, 7200.0), 9000.0, 10**11, 10**12, 10**9, 10**10, True, remarks)
    lines = plan.lines()
    assert lines[-1] == "nothing mixed is tried"
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  in all") and "14.0 h" in line for line in lines)


def test_interrupted_in_the_bank_it_says_how_to_go_on_and_adds_up(model, text, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    build = Bank.build

    def interrupted(self, *given):
        raise KeyboardInterrupt

    monkeypatch.setattr(Bank, "build", interrupted)
    assert main(small_arguments(model, text, out, *RULE, "--no-export")) == 130
    told = capsys.readouterr().err
    assert f"kept in {out}: the same command goes on" in told
    before = json.loads((out / "spent.json").read_text())
    assert before["bank"] > 0
    monkeypatch.setattr(Bank, "build", build)
    assert main(small_arguments(model, text, out, *RULE, "--no-export", "--quiet")) == 0, (
        capsys.readouterr().err
    )
    spent = json.loads((out / "run.json").read_text())["spent"]
    assert all(spent[name] > seconds for name, seconds in before.items() if name in ("start", "bank"))


def test_a_search_that_nobody_bounds_ends():
    assert settings_of({"model": "mine"}).search.minutes == DEFAULT_MINUTES
    assert settings_of({"model": "mine", "max_evaluations": 3}).search.minutes is None
    assert settings_of({"model": "mine", "minutes": 2.0}).search.minutes == 2.0


def test_a_run_file_may_say_that_nothing_bounds_a_search(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: mine\nsearch: {minutes: null}\n")
    assert settings_of({}, file).search.minutes is None


def test_what_is_no_place_for_a_search_is_refused_before_anything_is_loaded(run, text, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    for given, said in (
        (["embedded", "--out", str(tmp_path)], "holds something that no search wrote"),
        (["embedded", "--out", str(tmp_path), "--dry-run"], "holds something that no search wrote"),
        ([str(run), "--text", str(text), "--out", str(tmp_path / "new")], "is a run folder"),
        ([str(text), "--text", str(text), "--out", str(tmp_path / "new")], "is a file"),
    ):
        assert main(["search", *given]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_into_an_occupied_folder_is_refused_before_the_model_is_loaded(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "paretune.pipeline.exporting.open_workbench", lambda *given: pytest.fail("the model was loaded")
    )
    (tmp_path / "notes.txt").write_text("mine")
    for more in ((), ("--bundle",)):
        assert main(["export", str(run), "--out", str(tmp_path), *more]) == 2
        assert "not empty" in capsys.readouterr().err
