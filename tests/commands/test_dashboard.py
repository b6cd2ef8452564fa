"""A run as Optuna's own tools see it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from paretune.commands.main import main
from paretune.pipeline.run import Run
from paretune.search.records import RecordFile
from tests.commands.small_runs import ROOT


def test_a_run_is_a_study_of_optuna_with_every_parameter(run):
    import optuna

    study = Run(run).study
    tried = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    records = {record.index: record for record in RecordFile(run)}
    assert len({name for trial in tried for name in trial.params}) > 4
    for trial in tried:
        record = records[trial.user_attrs["index"]]
        assert trial.values[0] == record.measurements["kl"].value
        if record.name.startswith("uniform-4"):
            bits = {choice for name, choice in trial.params.items() if name.endswith((".qkv", ".down"))}
            assert bits
            assert all("4" in choice for choice in bits)
    assert len(optuna.visualization.plot_pareto_front(study).data) > 0


def test_the_dashboard_serves_a_run(run, tmp_path):
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "run_search.py"), "dashboard", str(run), "--port", str(port)]
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        found = _asked(f"http://127.0.0.1:{port}/api/studies")
    finally:
        process.kill()
        process.wait()
    assert [summary["study_name"] for summary in found["study_summaries"]] == ["paretune"]
    assert f"at http://127.0.0.1:{port}; Ctrl-C ends it" in said.read_text()


def _asked(url):
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- of our own server
                return json.load(answer)
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


def test_a_damaged_journal_has_no_dashboard(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("bank", "export"))
    (tmp_path / "run" / "study.journal").write_text("nothing of the kind\n")
    assert main(["dashboard", str(tmp_path / "run")]) == 2
    assert "it is written anew" in capsys.readouterr().err
