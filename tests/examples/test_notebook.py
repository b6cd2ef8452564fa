"""The notebook-sized example runs, and what it prints is what the run folder has."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]


def test_a_notebook_from_a_search_to_a_checked_export(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(ROOT / "examples" / "notebook.py"), str(out)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    with (out / "front.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    recommended = next(name for name, row in rows.items() if row["recommended"] == "true")
    assert f"recommended: {recommended}" in found.stdout
    assert all(name in found.stdout for name, row in rows.items() if row["on_front"] == "true")
    assert "KL to the candidate" in found.stdout
    assert "passed" in found.stdout
    assert found.stdout.rstrip().endswith("report.html")
