"""Stages that are killed go on: nothing is lost, done twice or another."""

from __future__ import annotations

import sys

import pytest

from tests.robustness.stages import killed, stages


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed as POSIX has it")
@pytest.mark.parametrize("name", ["bank", "export"])
def test_a_stage_that_is_killed_goes_on(tmp_path, name):
    stage = next(stage for stage in stages(tmp_path / "made") if stage.name == name)
    found, faults = killed(stage, tmp_path / "kills", 3)
    assert not faults
    assert found["repaired"] + found["accepted_right"] == 3
