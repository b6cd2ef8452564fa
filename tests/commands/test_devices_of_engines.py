"""Where an engine runs decides where its candidates are scored, and whose rules are shown."""

from __future__ import annotations

import re

import pytest
import torch

from paretune.commands.inspect import inspect
from paretune.engines import engine_names
from paretune.pipeline.run_file import RunFile
from paretune.pipeline.workbench import compute_device
from paretune.profiles.devices import find_device


@pytest.mark.parametrize("name", engine_names())
def test_candidates_for_a_cpu_engine_are_scored_on_the_cpu(monkeypatch, name):
    """Even where there is a GPU, unless the run file names a device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_cpu = name in ("torch-cpu", "llama.cpp", "openvino", "onnxruntime")
    assert compute_device(RunFile(model="embedded", engine=name)) == ("cpu" if on_cpu else "cuda")
    assert compute_device(RunFile(model="embedded", engine=name, compute_device="cuda:1")) == "cuda:1"


@pytest.mark.parametrize(("name", "kind"), [("torch-cpu", "cpu"), ("llama.cpp", "cpu"), ("vllm", None)])
def test_the_device_that_is_inspected_is_one_that_the_engine_runs_on(monkeypatch, capsys, name, kind):
    asked = []

    def detect(wanted):
        asked.append(wanted)
        return find_device("x86-avx2" if wanted == "cpu" else "h100")

    monkeypatch.setattr("paretune.pipeline.inspection.detect_device", detect)
    inspect("embedded", engine=name, group_size=128, json=True)
    assert asked == [kind]
    assert '"groups"' in capsys.readouterr().out


def test_the_device_is_named_and_refusals_that_share_a_reason_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr("paretune.pipeline.inspection.detect_device", lambda kind: find_device("x86-avx2"))
    inspect("embedded", engine="vllm", group_size=128)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "vllm on x86-avx2; for another: --device h100"
    refused = [line for line in lines if line.startswith("refused: blocks")]
    assert len(refused) == 1
    assert re.search(r"int2-g128/weighted and \d+ more: the CPU build runs", refused[0])
    inspect("embedded", engine="vllm", device="h100", group_size=128)
    assert capsys.readouterr().out.startswith("vllm on h100-sxm\n")
