"""``paretune profile`` on a tiny model: operations and whole models are timed, the table is kept."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from paretune.commands.profile import profile
from paretune.engines import find_engine
from paretune.pipeline.targets import local_device
from paretune.profiles.devices import detect_device
from paretune.profiles.table import CostTable
from paretune.profiles.whole_model import is_legal, profile_candidates
from paretune.spaces.errors import ConfigurationError, EngineError, RunError
from paretune.spaces.legality import illegal
from tests.fakes import FakeLegality, tiny_moe_spec, tiny_spec
from tests.models import build_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(
        build_tiny("llama", tmp_path_factory.mktemp("tiny"), dtype="bfloat16", tie_word_embeddings=True)
    )


def run(*arguments: str):
    app = typer.Typer()
    app.command()(profile)
    return CliRunner().invoke(app, [*arguments, "--seconds", "0.5", "--rounds", "2", "--quiet"])


def test_profile(model, tmp_path):
    out = tmp_path / "costs.json"
    done = run(model, "--workload", "b2-p8-o4", "--out", str(out), "--json")
    assert done.exit_code == 0, done.exception
    document = json.loads(done.stdout)
    names = [each["name"] for each in document["models"]]
    assert names[0] == "dense"
    assert {"uniform-8", "uniform-4", "dense, fewer-blocks"} <= set(names)
    for each in document["models"]:
        assert each["tpot_s"] > 0
        assert each["ttft_s"] > 0
        assert each["tpot_s_predicted"] > 0
        assert each["tpot_s_error"] == pytest.approx(each["tpot_s_predicted"] / each["tpot_s"] - 1)
        assert each["energy_j_per_token"] is None or each["energy_j_per_token"] > 0
    assert len(names) >= 8
    table = CostTable.read(out)
    assert len(table.rows) == document["operations"]
    for each in table.rows:
        assert each.seconds > 0
        assert each.n >= 1
        assert (each.device, each.engine) == (detect_device("cpu").name, "torch-cpu")
        assert each.engine_version == find_engine("torch-cpu").version()
    kernels = {each.operation.kernel for each in table.rows}
    assert {"fp32", "int4", "int8-weight-only", "int8-dynamic"} <= kernels

    shown = run(model, "--workload", "b1-p8-o4", "--out", str(out))
    assert shown.exit_code == 0, shown.exception
    assert "each token, predicted" in shown.output
    assert "no kernel for 3 bits: runs dense" in shown.output
    assert len(CostTable.read(out).rows) > len(table.rows), "rows of another workload are kept"


def test_a_damaged_table_is_refused_before_anything_is_timed(model, tmp_path):
    (tmp_path / "costs.json").write_text("{")
    assert isinstance(run(model, "--out", str(tmp_path / "costs.json")).exception, RunError)


def test_another_device_cannot_be_measured():
    with pytest.raises(ConfigurationError, match="measures this machine"):
        local_device(find_engine("torch-cpu"), "h100")


def test_an_engine_that_is_not_here_can_be_searched_for(monkeypatch):
    for name, elsewhere in (("vllm", True), ("llama.cpp", False)):
        engine = find_engine(name)
        monkeypatch.setattr(type(engine), "available", lambda engine: illegal("not installed", engine.name))
        with pytest.raises(EngineError, match="not installed") as caught:
            local_device(engine, "auto")
        assert ("--device h100" in caught.value.remedy) == elsewhere


def test_this_machine_has_a_name():
    here = detect_device("cpu")
    for name in ("auto", "cpu", here.name):
        assert local_device(find_engine("torch-cpu"), name) == here


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EngineError, match="no GPU"):
        local_device(find_engine("torch-cpu"), "gpu")


@pytest.mark.parametrize("spec", [tiny_spec(), tiny_moe_spec()], ids=["dense", "mixture"])
def test_candidates_are_legal_and_distinct(spec):
    legality = find_engine("torch-cpu").legality("x86-avx2")
    found = profile_candidates(spec, legality)
    assert len({config.digest for config in found.values()}) == len(found) >= 8
    assert all(is_legal(spec, legality, config) for config in found.values())


def test_what_an_engine_refuses_is_no_candidate():
    picky = FakeLegality(refuse_choice=lambda group, choice: "" if choice.weight.dense else "dense only")
    assert all(not config.layers for config in profile_candidates(tiny_spec(), picky).values())
    no_cache = FakeLegality(refused_kv=("kv8",))
    assert "uniform-4, 8-bit cache" not in profile_candidates(tiny_spec(), no_cache)
