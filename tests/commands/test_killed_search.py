"""A search on measured times that is killed in the middle goes on as the same search."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from paretune.search.records import RecordFile
from tests.commands.small_runs import ROOT, paretune

pytestmark = pytest.mark.engine


def arguments(model, text, out, candidates):
    file = out.with_name(f"{candidates}.json")
    settings = {
        "model": str(model), "search": {"max_candidates": candidates}, "measure_latency": False,
        "space": {"kv_bits": [16]},
    }  # fmt: skip
    file.write_text(json.dumps(settings))
    words = (
        "search", "--run-file", file, "--text", text, "--out", out, "--window-tokens", 32, "--bits", "4,16",
        "--embedding-bits", "16", "--group-size", 32, "--method", "rtn",
        "--workload", "batch=1,prompt=16,output=8",
        "--objective", "kl", "--objective", "tpot", "--objective", "bytes", "--no-export",
    )  # fmt: skip
    return [*map(str, words)]


def essence(folder):
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "check")} for line in lines]


def test_a_search_on_times_that_is_killed_is_the_undisturbed_one(model, text, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_search.py"), *arguments(model, text, killed, 6)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not _trials(killed):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = essence(killed)
    predictor = (killed / "predictor.json").read_bytes()
    # The same from the beginning, with the times that were taken: what depends on the machine's mood is in these.
    shutil.copytree(killed, whole)
    for name in ("records.jsonl", "configurations.jsonl", "sampler.json", "study.journal"):
        (whole / name).unlink()
    for folder in (killed, whole):
        found = paretune(*arguments(model, text, folder, 6))
        assert found.returncode == 0, found.stderr[-2000:]
    assert essence(killed)[: len(kept)] == kept
    assert essence(killed) == essence(whole)
    assert (killed / "predictor.json").read_bytes() == predictor
    times = {}
    for record in RecordFile(killed):
        times.setdefault(record.digest, set()).add(record.measurements["tpot_s_predicted"].value)
    assert all(len(predicted) == 1 for predicted in times.values())

    (killed / "predictor.json").unlink()
    refused = paretune(*arguments(model, text, killed, 8))
    assert refused.returncode == 2
    assert "belongs to another predictor" in refused.stderr


def _trials(folder):
    """Whether the sampler's second candidate is being scored."""
    file = folder / "sampler.json"
    return file.exists() and json.loads(file.read_text())["asked"] >= 2
