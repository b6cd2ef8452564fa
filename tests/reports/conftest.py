"""One synthetic run, written once and shared; tests that write get a copy of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.reports.synthetic import write_run


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def run(shared_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_run, tmp_path / "demo"))
