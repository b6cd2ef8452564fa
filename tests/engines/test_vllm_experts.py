"""Experts with rounded inputs in vLLM: what it takes on which device, and what is written for it."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks.random_configs import legal_choices, random_legal
from paretune.compressors.input_rounding import input_factor
from paretune.engines import find_engine
from paretune.engines.vllm.devices import executed
from paretune.profiles.devices import find_device
from paretune.profiles.roofline import roofline
from paretune.profiles.work import Case
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineError
from paretune.spaces.formats import WeightFormat
from paretune.spaces.named_formats import find_choice
from paretune.spaces.size import layer_bytes
from paretune.spaces.target import Workload
from tests.engines import vllm_cases as cases
from tests.engines.conftest import choice
from tests.engines.vllm_cases import DEVICES, ENGINE, GPUS, written

EXPERTS = "blocks.1.experts"
LEGAL_SOMEWHERE = ("w8a8-dynamic", "fp8-dynamic", "fp8-static", "fp8-block-dynamic")
INT8, FP8 = WeightFormat(num_bits=8, number_type="int"), WeightFormat(num_bits=8)
TOKEN, TOKEN_FLOAT = ActivationFormat(), ActivationFormat(number_type="float")


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral"])
def mixture(request, bench):
    """Wide enough for tiles of kernels and for blocks of 128 x 128."""
    width = {"qwen3_moe": "moe_intermediate_size", "mixtral": "intermediate_size"}[request.param]
    return bench(request.param, hidden_size=256, **{width: 128})


def ruled(spec, wanted, device, pruned=WHOLE, parallel=1):
    return cases.ruled(spec, wanted, device, EXPERTS, pruned, parallel)


def made_of(weight, inputs):
    return LayerChoice(weight=weight, activation=inputs, method="rtn")


@pytest.mark.parametrize(
    ("wanted", "devices"),
    [
        (find_choice("w8a8-dynamic"), GPUS),
        (find_choice("w8a8-static"), []),
        (made_of(WeightFormat(num_bits=8, number_type="int", block_rows=0), TOKEN), []),
        (made_of(WeightFormat(num_bits=8, number_type="int", group_size=64), TOKEN), []),
        (made_of(WeightFormat(num_bits=4, number_type="int"), TOKEN), []),
        (made_of(INT8, TOKEN_FLOAT), []),
        (made_of(FP8, TOKEN), []),
        (find_choice("fp8-dynamic"), GPUS[1:]),
        (find_choice("fp8-static"), ["ada", "hopper"]),
        (made_of(find_choice("fp8-static").weight, TOKEN_FLOAT), []),
        (made_of(FP8, find_choice("fp8-static").activation), []),
        (find_choice("fp8-block-dynamic"), ["ada", "hopper"]),
        (find_choice("fp8-channel"), []),
        (find_choice("nvfp4-a4"), []),
        (find_choice("mxfp4-a4"), []),
        (find_choice("mxfp8-a8"), []),
    ],
    ids=lambda value: value.name if isinstance(value, LayerChoice) else "-".join(value),
)
def test_formats_of_experts_by_generation(mixture, wanted, devices):
    rulings = {device: ruled(mixture.spec, wanted, device) for device in DEVICES}
    assert [device for device, verdict in rulings.items() if verdict] == devices
    for verdict in rulings.values():
        assert verdict or (verdict.reason and verdict.source.startswith("vllm"))


def test_shapes_are_those_of_an_experts_linears(mixture):
    """Gate and up are stored apart: 2 x 64 rows are no block of 128."""
    half = PrunedShape(ffn_channels=64)
    for name in ("w8a8-dynamic", "fp8-dynamic", "fp8-static"):
        assert ruled(mixture.spec, find_choice(name), "hopper", half)
        assert ruled(mixture.spec, find_choice(name), "hopper", parallel=2)
        assert not ruled(mixture.spec, find_choice(name), "hopper", PrunedShape(ffn_channels=96))
        assert not ruled(mixture.spec, find_choice(name), "hopper", parallel=4)
    for refused in (
        ruled(mixture.spec, find_choice("fp8-block-dynamic"), "hopper", half),
        ruled(mixture.spec, find_choice("fp8-block-dynamic"), "hopper", parallel=2),
    ):
        assert "64 rows of an expert's gate" in refused.reason


def everywhere(one, wanted, *, block=1, **fields):
    names = [x.name for x in one.spec.linears if x.role.startswith("expert") and x.block == block]
    return CompressionConfig(layers=dict.fromkeys(names, wanted), **fields)


def test_inputs_of_int8_experts_are_scored_as_they_are_executed(mixture):
    """Vllm 0.26 multiplies their codes with 16-bit inputs; those of linears are rounded."""
    wanted = find_choice("w8a8-dynamic")
    attention = next(x.name for x in mixture.spec.of_role("o"))
    config = everywhere(mixture, wanted)
    config = config.replaced(layers={**config.layers, attention: wanted})
    found = ENGINE.executed_config(mixture.spec, config, "h100")
    assert found.choice(attention).activation.name == "a8-token-127"
    rest = [choice for layer, choice in found.layers.items() if layer != attention]
    assert len(rest) == 2
    assert all(one == wanted.model_copy(update={"activation": None}) for one in rest)
    for device in ("l4", "h100", "b200"):
        fp8 = find_choice("fp8-dynamic")
        assert executed(fp8, device, experts=True) == fp8
        assert "int8 w8a8 of experts as w8a16" in ENGINE.numeric_path(device)


def pieces(one, expert):
    """Modules of an expert of block 1: gate, up, down."""
    path = {"qwen3_moe": "mlp", "mixtral": "block_sparse_moe"}[one.spec.family]
    names = {"qwen3_moe": ("gate_proj", "up_proj", "down_proj"), "mixtral": ("w1", "w3", "w2")}
    return [f"model.layers.1.{path}.experts.{expert}.{name}" for name in names[one.spec.family]]


def spread(scale, shape):
    """Scales of rows, blocks or a matrix, one a weight."""
    if scale.numel() == 1:
        return scale.float().expand(shape)
    rows, columns = shape[0] // scale.shape[0], shape[1] // scale.shape[1]
    return scale.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)


@pytest.mark.parametrize("pruned", [WHOLE, PrunedShape(ffn_channels=64)], ids=["whole", "narrower"])
@pytest.mark.parametrize("name", LEGAL_SOMEWHERE)
def test_what_is_written_is_the_candidate(mixture, tmp_path, name, pruned):
    """Shaped as ``create_weights`` of the schemes wants it, under the names that the loader maps."""
    wanted = find_choice(name)
    config = everywhere(mixture, wanted, pruned=pruned)
    if name == "fp8-block-dynamic" and not pruned.whole:
        with pytest.raises(EngineError, match="64 rows"):
            written(mixture, config, tmp_path / "export")
        return
    tensors, stated = written(mixture, config, tmp_path / "export")
    (group,) = stated["config_groups"].values()
    assert group["format"] == ("int-quantized" if name == "w8a8-dynamic" else "float-quantized")
    assert group["input_activations"]["strategy"] == wanted.activation.strategy
    assert group["input_activations"]["dynamic"] == wanted.activation.dynamic
    dtype = torch.int8 if name == "w8a8-dynamic" else torch.float8_e4m3fn
    first, second = (
        next(x for x in mixture.spec.of_role(role) if x.block == 1)
        for role in ("expert_gate_up", "expert_down")
    )
    bank = mixture.assembler.bank
    for expert in range(first.experts):
        found = []
        for module in pieces(mixture, expert):
            codes, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"]
            assert codes.dtype == dtype
            found.append(codes.float() * spread(scale, codes.shape))
            assert (f"{module}.input_scale" in tensors) == (name == "fp8-static")
        for linear, made in ((first, torch.cat(found[:2])), (second, found[2])):
            assert torch.equal(made, bank.tensor(linear.name, wanted, pruned)[expert])
            assert not torch.equal(made, bank.tensor(linear.name, LayerChoice(), pruned)[expert])


def test_all_experts_store_the_scale_that_the_candidate_is_scored_with(mixture, tmp_path):
    wanted, spec = find_choice("fp8-static"), mixture.spec
    config = everywhere(mixture, wanted)
    tensors, _ = written(mixture, config, tmp_path / "export")
    for role, places in (("expert_gate_up", (0, 1)), ("expert_down", (2,))):
        linear = next(x for x in spec.of_role(role) if x.block == 1)
        statistics = mixture.assembler.bank.statistics
        factor = input_factor(spec, statistics, linear, wanted.activation, WHOLE, torch.bfloat16)
        stored = [
            tensors[f"{pieces(mixture, expert)[place]}.input_scale"]
            for expert in range(linear.experts)
            for place in places
        ]
        assert all(scale.shape == (1,) and float(scale) == float(factor) != 1.0 for scale in stored)


def test_rounding_again_through_float16_leaves_codes_where_they_are(mixture, tmp_path):
    """What ``process_fp8_weight_tensor_strategy_moe`` does to gate and up: scales are equal, and not too small."""
    tensors, _ = written(mixture, everywhere(mixture, find_choice("fp8-static")), tmp_path / "export")
    gate, up, _ = pieces(mixture, 0)
    scale = tensors[f"{gate}.weight_scale"].float()
    assert torch.equal(scale, tensors[f"{up}.weight_scale"].float())
    assert float(scale) > 2**-15

    def again(codes, scale):
        return ((codes.to(torch.float16) * scale).float() / scale).to(torch.float8_e4m3fn)

    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    every = every[~every.float().isnan()]
    for size in (scale[0], torch.tensor(2.0**-15) * 1.001, torch.tensor(1.0)):
        assert torch.equal(again(every, size).float(), every.float())
    assert not torch.equal(again(every, torch.tensor(2.0**-18) * 1.3).float(), every.float())


def test_targets_have_the_names_that_vllm_asks_for_and_those_that_are_stored(mixture, tmp_path):
    """``get_moe_method`` asks for Qwen's names in every family, below the path that the family publishes."""
    _, stated = written(mixture, everywhere(mixture, find_choice("fp8-dynamic")), tmp_path / "export")
    (group,) = stated["config_groups"].values()
    patterns = [target.removeprefix("re:") for target in group["targets"]]
    path = pieces(mixture, 0)[0].rpartition(".")[0]
    asked = [f"{path}.{name}_proj" for name in ("gate", "up", "down")]
    for name in (*asked, *pieces(mixture, 3)):
        assert any(re.match(pattern, name) for pattern in patterns)
    assert not any(
        re.match(pattern, name.replace("layers.1", "layers.2")) for pattern in patterns for name in asked
    )


def test_such_choices_are_drawn(mixture):
    choices = legal_choices(ENGINE, "h100", mixture.spec)[EXPERTS]
    drawn = random_legal(ENGINE, "h100", mixture.spec, 8)
    found = {
        choice
        for named in drawn
        for layer, choice in named.config.layers.items()
        if mixture.spec.linear(layer).role.startswith("expert")
    }
    for name in LEGAL_SOMEWHERE:
        assert find_choice(name) in choices
    assert len(found & {find_choice(name) for name in LEGAL_SOMEWHERE}) > 1


@pytest.mark.parametrize("name", ["torch", "torch-cpu", "transformers"])
def test_transformers_does_not_round_them(mixture, name):
    legality = find_engine(name).legality("x86-avx2")
    found = next(one for one in legality.groups(mixture.spec) if one.name == EXPERTS)
    for wanted in (choice(8, None, a8=True), find_choice("w8a8-static"), find_choice("w8a8-dynamic")):
        refused = legality.choice(mixture.spec, found, wanted, WHOLE)
        assert "their inputs stay unrounded" in refused.reason
        assert "DecompressExperts" in refused.source


def test_bytes_and_rooflines_count_every_expert(mixture):
    spec = mixture.spec
    for linear in (x for x in spec.linears if x.role.startswith("expert") and x.block == 1):
        found = layer_bytes(spec, linear, everywhere(mixture, find_choice("w8a8-dynamic")))
        assert found.total == linear.experts * (linear.out_features * (linear.in_features + 2))
        scales = linear.experts * linear.pieces
        found = layer_bytes(spec, linear, everywhere(mixture, find_choice("fp8-static")))
        assert found.payload == linear.weights + 2 * scales
        assert found.overhead == 2 * scales
    workload, device = Workload(prompt_tokens=64), find_device("h100")
    whole, half = (
        roofline(Case(spec, config, workload, device)).decode.weights_s
        for config in (
            CompressionConfig(),
            CompressionConfig(
                layers={
                    x.name: find_choice("w8a8-dynamic") for x in spec.linears if x.role.startswith("expert")
                }
            ),
        )
    )
    assert 0.5 * whole < half < whole
