"""Which formats, shapes and devices vLLM takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

import paretune.engines.vllm_engine as module
from paretune import demo
from paretune.engines.environments import Environment
from paretune.engines.vllm.devices import CAPABILITIES, executed, generation
from paretune.engines.vllm.kernels import kernel_of
from paretune.spaces.architectures import read_model
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineAbsentError, UnknownNameError
from paretune.spaces.formats import ggml_format
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Workload
from tests.engines.conftest import choice
from tests.engines.vllm_cases import DEVICES, ENGINE, GPUS, legal_on, ruled
from tests.fakes import tiny_spec

W8A8 = find_choice("w8a8-dynamic")


@pytest.fixture(scope="module")
def spec():
    return read_model(demo.MODEL)


@pytest.fixture(scope="module")
def mixture(bench):
    """Wide enough for tiles of kernels."""
    return bench("qwen3_moe", hidden_size=256)


@pytest.mark.parametrize(
    ("wanted", "devices"),
    [
        (LayerChoice(), list(DEVICES)),
        *((choice(bits, group), GPUS) for bits in (2, 3, 4, 5, 6, 8) for group in (None, 32, 64, 128)),
        *((choice(bits, 128, symmetric=False), GPUS) for bits in (4, 8)),
        *((choice(bits, 128, symmetric=False), []) for bits in (2, 3, 5, 6)),
        (choice(4, 16), GPUS),
        (choice(4, 96), []),
        (choice(4, None, a8=True), []),
        (W8A8, ["cpu", "ampere", "ada", "hopper"]),
        (find_choice("w8a8-static"), ["cpu", "ampere", "ada", "hopper"]),
        (find_choice("fp8-channel"), GPUS),
        (find_choice("fp8-dynamic"), list(DEVICES)),
        (find_choice("fp8-block-dynamic"), GPUS[:-1]),
        (find_choice("nvfp4"), GPUS),
        (find_choice("mxfp4-a4"), GPUS),
        (find_choice("mxfp8"), GPUS[:-1]),
        (find_choice("nf4"), []),
        (LayerChoice(weight=ggml_format("q4_k"), method="ggml"), []),
    ],
    ids=lambda value: value.name if isinstance(value, LayerChoice) else "-".join(value),
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
    assert legal_on(spec, LayerChoice(), "embedding") == list(DEVICES)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_experts_have_4_or_8_symmetric_bits(mixture, bits):
    expected = GPUS if bits in (4, 8) else []
    assert legal_on(mixture.spec, choice(bits, 64), "blocks.0.experts") == expected
    assert legal_on(mixture.spec, choice(bits, 64, symmetric=False), "blocks.0.experts") == []
    assert legal_on(mixture.spec, choice(bits, None), "blocks.0.experts") == []
    assert legal_on(mixture.spec, choice(bits, 64), "blocks.0.qkv") == GPUS


def test_shapes_that_no_kernel_takes_are_refused(spec):
    narrow = PrunedShape(ffn_channels=448)
    assert ruled(spec, choice(4, 64), "hopper", pruned=narrow)
    assert "448" in ruled(spec, choice(4, 128), "hopper", pruned=narrow).reason
    assert ruled(spec, W8A8, "hopper", pruned=narrow)
    odd = PrunedShape(ffn_channels=316)  # rows of gate and up, columns of down
    assert "8 x 8" in ruled(spec, find_choice("fp8-channel"), "hopper", pruned=odd).reason
    assert "whole words" in ruled(spec, choice(3, None), "hopper", pruned=odd).reason
    assert "16" in ruled(spec, find_choice("fp8-dynamic"), "hopper", "blocks.0.gate_up", pruned=odd).reason
    assert ruled(spec, find_choice("fp8-dynamic"), "hopper", pruned=odd)


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "rows", "columns", "kernel"),
    [
        # the widths of SmolLM2-135M, as its linears loaded on an H200
        (4, 64, True, 960, 576, "Marlin"),
        (4, 64, True, 3072, 576, "Machete"),
        (4, 32, True, 3072, 576, "Marlin"),
        (3, 64, True, 960, 576, "Humming"),
        (8, 32, True, 576, 1536, "Marlin"),
        (8, 32, False, 576, 1536, "Humming"),
        (4, 256, True, 2048, 2048, "TritonW4A16"),
        (4, 256, True, 2044, 2048, "Humming"),
        (4, 96, True, 2048, 1152, None),
        (3, 64, False, 2048, 2048, None),
    ],
)
def test_kernels_of_packed_integers_on_hopper(bits, group, symmetric, rows, columns, kernel):
    found = kernel_of(choice(bits, group, symmetric=symmetric).weight, 90, rows, columns)
    assert found == (None if kernel is None else f"{kernel}LinearKernel")


def test_every_generation_has_its_kernels():
    four = choice(4, 64).weight
    assert {kernel_of(four, one, 128, 128) for one in (80, 86, 89, 100, 120)} == {"MarlinLinearKernel"}
    assert kernel_of(choice(8, None).weight, 89, 128, 128) == "AllSparkLinearKernel"
    assert set(CAPABILITIES) == set(GPUS)
    assert all(kernel_of(four, capability) for capability in CAPABILITIES.values())


def test_heads_and_rows_are_divided_among_devices(spec):
    assert ENGINE.legality_at("h100", Workload(tensor_parallel=2)).pruned(spec, WHOLE)
    assert not ENGINE.legality_at("h100", Workload(tensor_parallel=3)).pruned(spec, WHOLE)
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
    monkeypatch.setattr("paretune.engines.engine.find_environment", lambda _: found)
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
    mxfp8 = find_choice("mxfp8-a8")
    assert executed(mxfp8, "h200") == mxfp8.model_copy(update={"activation": None})
    assert executed(fp8, "x86-avx2") == fp8
    for device in DEVICES.values():
        inputs = executed(W8A8, device).activation
        assert inputs is not None
        assert inputs.name == "a8-token-127"
        assert executed(find_choice("w8a8-static"), device) == find_choice("w8a8-static")
        assert executed(choice(4), device) == choice(4)


def test_who_names_nothing_gets_what_the_device_runs_well():
    spec = tiny_spec(
        hidden=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, dtype="bfloat16"
    )  # of SmolLM2-135M
    space = SearchSpace(spec, ENGINE.legality("h200"), ENGINE.offered(Restrictions(), "h200"))
    choices = {parameter.name: parameter.choices for parameter in space.parameters}
    for part in ("qkv", "o", "gate_up", "down"):
        inside = choices[f"blocks.0.{part}"]
        assert find_choice("fp8-dynamic") in inside
        assert all(one.sparsity is None for one in inside)
        sizes = {one.weight.group_size for one in inside if one.weight.num_bits == 4}
        assert sizes == ({128, 64, 32, None} if part == "down" else {64, 32, None})
    assert [cache.num_bits for cache in choices["kv"]] == [16, 8]
    assert {c.weight.group_size for c in choices["blocks.0.qkv"] if c.method == "gptq"} == {64}
    assert {c.weight.group_size for c in choices["blocks.0.qkv"] if c.weight.num_bits == 5} == {64, None}
    asked = ENGINE.offered(Restrictions(bits=(4, 16), group_size=32, sparsity=(0.5,)), "h200")
    assert (asked.group_size, asked.formats, asked.sparsity) == (32, (), (0.5,))
    native = {device: ENGINE.offered(Restrictions(), name).formats for device, name in DEVICES.items()}
    assert ("nvfp4-a4" in native["blackwell"], "nvfp4-a4" in native["hopper"]) == (True, False)
    assert "fp8-dynamic" not in native["ampere"]


@pytest.mark.parametrize("device", list(DEVICES))
def test_a_space_for_a_device_has_choices_and_reasons(spec, device):
    asked = Restrictions(bits=(3, 4, 8, 16), embedding_bits=(8, 16), kv_bits=(16,))
    space = SearchSpace(spec, ENGINE.legality(DEVICES[device]), asked)
    config = space.decode([len(parameter.choices) - 1 for parameter in space.parameters])
    assert ENGINE.export_ruling(spec, config)
    assert space.refused


def test_export_is_refused_where_fused_layers_differ(spec, tmp_path):
    layer = spec.of_role("q")[0].name
    config = CompressionConfig(layers={layer: choice(4, 128)})
    verdict = ENGINE.export_ruling(spec, config)
    assert not verdict
    assert "fuses" in verdict.reason


def test_formats_that_no_one_device_runs_together_are_refused(spec):
    groups = {group.name: group.layers for group in ENGINE.legality("h100").groups(spec)}
    both = CompressionConfig(
        layers={
            **dict.fromkeys(groups["blocks.0.down"], W8A8),
            **dict.fromkeys(groups["blocks.1.down"], choice(4, 128)),
        }
    )
    assert ENGINE.export_ruling(spec, both)
    assert not ENGINE.legality("x86-avx2").choice(
        spec, next(g for g in ENGINE.legality("x86-avx2").groups(spec) if g.name == "blocks.1.down"),
        choice(4, 128), WHOLE,
    )  # fmt: skip


def test_a_group_of_experts_is_shorter_than_what_a_device_has_of_a_row(mixture):
    """Of ``down``'s rows; 0.26 orders the scales of gate and up by that length."""
    experts = "blocks.0.experts"
    assert ruled(mixture.spec, choice(4, 64), "hopper", experts)
    refused = ruled(mixture.spec, choice(4, 128), "hopper", experts)
    assert "a group of 128 is all that a device has of a row" in refused.reason
    assert not ruled(mixture.spec, choice(4, 64), "hopper", experts, parallel=2)
    half = PrunedShape(ffn_channels=64)
    assert not ruled(mixture.spec, choice(8, 64), "hopper", experts, pruned=half)
    assert ruled(mixture.spec, choice(8, 32), "hopper", experts, pruned=half)
