"""The registry, and the contract of every registered engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paretune.engines import Engine, engine_names, find_engine
from paretune.spaces.errors import EngineError, UnknownNameError
from paretune.spaces.legality import illegal
from paretune.spaces.named_formats import find_choice
from tests.engines.conftest import REQUIRED, running
from tests.engines.contract import CheckpointContract, EngineContract, ProfiledContract


class TestTorchCpu(ProfiledContract):
    name = "torch-cpu"


class TestTorch(ProfiledContract):
    name = "torch"


class TestTransformers(CheckpointContract):
    name = "transformers"


class TestVllm(EngineContract):
    name = "vllm"
    device = "x86-avx512"
    shares_layers = True
    tolerance = 1e-3

    def bits(self):
        return find_choice("w8a8-dynamic")


class TestLlamaCpp(EngineContract):
    name = "llama.cpp"
    tolerance = 1e-3

    def bits(self):
        return find_choice("q5_0")


class TestOpenVino(EngineContract):
    name = "openvino"


class TestOnnxRuntime(EngineContract):
    name = "onnxruntime"


def test_every_registered_engine_has_a_contract_test():
    tested = {case.name for case in globals().values() if isinstance(case, type) and hasattr(case, "name")}
    assert tested == set(engine_names())


@pytest.mark.engine
@pytest.mark.parametrize("name", engine_names())
def test_it_runs_on_a_machine_without_a_gpu(name):
    assert running(name).version()


@pytest.mark.parametrize("name", engine_names())
def test_an_engine_that_is_missing_is_a_failure_only_where_all_are_required(name, monkeypatch):
    monkeypatch.setattr(type(find_engine(name)), "available", lambda _: illegal("not installed", name))
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        running(name)
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        running(name)


def test_engines_are_found_by_name():
    for name in engine_names():
        assert isinstance(find_engine(name), Engine)
        assert find_engine(name).name == name


def test_an_unknown_engine_names_the_nearest():
    with pytest.raises(UnknownNameError, match="torch-cpu"):
        find_engine("torch-gpu")


def test_asking_what_is_legal_loads_no_torch():
    program = (
        "import sys\n"
        "from paretune import engines\n"
        "from tests.fakes import tiny_spec\n"
        "from paretune.spaces.space import SearchSpace\n"
        "from paretune.spaces.configuration import DENSE_CONFIG\n"
        "from paretune.spaces.target import Workload\n"
        "engine = engines.find_engine('torch-cpu')\n"
        "spec = tiny_spec()\n"
        "SearchSpace(spec, engine.legality('x86'))\n"
        "engine.operations(spec, DENSE_CONFIG, Workload())\n"
        "engine.export_ruling(spec, DENSE_CONFIG)\n"
        "heavy = {'torch', 'transformers', 'compressed_tensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_torch_cpu_refuses_another_device(bench):
    one = bench()
    with pytest.raises(EngineError, match="CPU"):
        find_engine("torch-cpu").runtime(one.assembler, one.assembler.config, "cuda")


def test_torch_refuses_a_device_that_is_not_there(bench):
    one = bench()
    with pytest.raises(EngineError, match="cannot use it"):
        find_engine("torch").runtime(one.assembler, one.assembler.config, "cuda:77")


def test_the_numeric_paths_differ():
    paths = {find_engine(name).numeric_path("x86-avx512") for name in engine_names()}
    assert len(paths) == len(engine_names())
