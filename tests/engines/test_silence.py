"""What engines would tell about their users is not told by the processes that we start.

ONNX Runtime has a sender in its wheels for Linux from 1.29 on: the first session writes a name of the machine and a
store of events below the cache folder, unless ``ORT_DISABLE_TELEMETRY`` is set or it recognises continuous integration
(``Privacy.md`` in the package; seen in 1.31). OpenVINO's sender is tested in ``test_openvino``, vLLM's in
``test_vllm_on_cpu``; llama.cpp and transformers have none.
"""

from __future__ import annotations

import pytest

from paretune.engines.engine import ExportCard
from paretune.engines.foreign_process import SILENT
from paretune.spaces.configuration import DENSE_CONFIG
from tests.engines.conftest import running

CONTINUOUS_INTEGRATION = (
    "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID",
    "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER",
)  # fmt: skip
"""Variables by which the sender stays away: they would hide that it is there."""


@pytest.mark.parametrize("name", ["ORT_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "HF_HUB_DISABLE_TELEMETRY"])
def test_the_switch_of_every_sender_is_set(name):
    assert SILENT[name] == "1"


@pytest.mark.engine
def test_onnx_runtime_leaves_no_name_of_the_machine(bench, tmp_path, monkeypatch):
    engine, one = running("onnxruntime"), bench("llama")
    folder = engine.export(one.assembler, DENSE_CONFIG, tmp_path / "export", ExportCard(one.folder))
    home = tmp_path / "home"
    home.mkdir()
    for name in CONTINUOUS_INTEGRATION:
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    engine.predictions(folder, one.ids[:1])
    assert not list(home.rglob("*"))
