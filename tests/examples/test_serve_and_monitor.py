"""The example runs, and does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.conftest import running

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.engine


def test_from_a_search_to_a_server_that_falls_back(tmp_path):
    running("llama.cpp")
    pytest.importorskip("fastapi", reason="the monitor needs the extra 'monitor'")
    out = tmp_path / "run"
    command = [
        sys.executable,
        str(ROOT / "examples" / "serve_and_monitor.py"),
        "--out",
        str(out),
        "--minutes",
        "0.1",
    ]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("healthy") == 4
    assert "the server says ' de" in found.stdout
    ladder = out / "ladder"
    rungs = sorted(path.name for path in ladder.iterdir() if path.is_dir() and not path.is_symlink())
    assert f"from {rungs[0]} to {rungs[1]}" in found.stdout
    assert (ladder / "current").readlink().name == rungs[1]
