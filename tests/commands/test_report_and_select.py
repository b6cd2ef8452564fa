"""``paretune report`` and ``paretune select`` as functions: what they print, write and refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from paretune.commands.report import report
from paretune.commands.select import select
from paretune.reports.reading import read_front
from paretune.reports.selection import broken_limits
from paretune.spaces.errors import LimitError, RunError
from paretune.spaces.files import write_json
from paretune.spaces.limits import Limit
from paretune.spaces.schema import sealed, unsealed
from tests.reports.synthetic import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


def test_report_rebuilds_table_and_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(run, show=False, summary=True)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(run / "report.html")
    assert f"recommended: {read_front(run).recommended}" in printed
    assert (run / "front.csv").read_text().startswith("digest,name,average_bits,")


def test_report_opens_the_page_when_asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    report(run, show=True, summary=False)
    assert opened == [(run / "report.html").as_uri()]


def test_report_of_no_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        report(tmp_path, show=False, summary=False)
    assert list(tmp_path.iterdir()) == []


def test_select_prints_the_member(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select(run, limits=["weight_bytes<=2.3MB"], metric="", json=False) == 0
    printed = capsys.readouterr().out
    name = printed.split()[0]
    assert f"--name {name}" in printed
    assert "Cannot be told apart from mix-" in printed


def test_select_prints_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select(run, limits=["kl<=0.1"], metric="bytes", json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["selected"]["measurements"]["kl"]["value"] <= 0.1
    assert found["nearest"] is None
    assert "per_window" not in found["selected"]["measurements"]["kl"]


def test_select_refuses_with_the_nearest(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LimitError, match="Nearest: ") as caught:
        select(run, limits=["weight_bytes<=1kB"], metric="", json=False)
    assert caught.value.exit_code == 3
    assert select(run, limits=["weight_bytes<=1kB"], metric="", json=True) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["selected"] is None
    assert found["nearest"]["name"] == "uniform-2"
    assert found["broken"][0]["limit"] == "weight_bytes<=1kB"


@pytest.mark.parametrize(
    "limits",
    [["memory<=6"], ["weight_bytes>=1TB"], ["kl<=1e-9", "bytes<=1kB"], ["top1_agreement>=1", "bits<=1"]],
)
def test_the_limit_that_is_suggested_selects_the_nearest(
    run: Path, capsys: pytest.CaptureFixture[str], limits: list[str]
) -> None:
    front = unsealed(json.loads((run / "front.json").read_text()))
    for one in front["members"]:
        one["measurements"]["memory_bytes"]["value"] += 374016.0  # least: 1897632
    write_json(run / "front.json", sealed(front))
    with pytest.raises(LimitError) as caught:
        select(run, limits=limits, metric="", json=False)
    nearest = caught.value.remedy.split()[1]
    suggested = re.findall(r"--limit '([^']+)'", caught.value.remedy)
    assert select(run, limits=suggested, metric="", json=False) == 0
    assert capsys.readouterr().out
    loosened = tuple(Limit.parse(text) for text in suggested)
    member = next(one for one in read_front(run).members if one.name == nearest)
    assert not broken_limits(member, loosened)


def test_select_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        select(tmp_path / "nowhere", limits=None, metric="", json=False)


def application() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)
    app.command("report")(report)
    app.command("select")(select)
    return app


def test_options_reach_the_functions(run: Path) -> None:
    result = CliRunner().invoke(
        application(),
        ["select", str(run), "--limit", "kl<=0.1", "--limit", "memory<=3MB", "--metric", "bytes", "--json"],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["metric"] == "weight_bytes"


@pytest.mark.parametrize("command", ["report", "select"])
def test_help_says_units(command: str) -> None:
    result = CliRunner().invoke(application(), [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "nat" in result.output
    assert "B" in result.output
