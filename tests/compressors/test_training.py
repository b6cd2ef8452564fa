"""Learned rounding: gradients by hand, codes that are the container's, errors that only fall, models left alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.compressors.block_stream import BlockStream
from paretune.compressors.loading import load_dense
from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.statistics import LayerStatistics
from paretune.compressors.training.block_rounding import BlockLayer, RoundingSettings, tune_block
from paretune.compressors.training.fake_quantization import LearnedRounding, LearnedWeight, straight_through
from paretune.compressors.training.model_rounding import tune_model
from paretune.compressors.training.refinement import refine
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, FormatError, ModelError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import GROUP, make_bench, make_windows
from tests.fakes import FakeLegality

RTN = find_quantizer("rtn")
QUICK = RoundingSettings(steps=8, batch_windows=2, learning_rate=0.03, checks=2)


class Plain(torch.nn.Module):
    """A block of one linear, called as decoder blocks are."""

    def __init__(self, weight):
        super().__init__()
        self.inner = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.inner.weight.data = weight
        self.requires_grad_(False)

    def forward(self, hidden, scale=1.0):
        return (self.inner(hidden) * scale,)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated_inputs(windows=6, tokens=16, columns=64):
    return random(windows, tokens, columns, seed=1) @ (random(columns, columns, seed=2) / columns**0.5 + 0.2)


def tune(weight, wanted, inputs, settings=QUICK, **others):
    layers = {"x": BlockLayer("inner.weight", wanted)}
    with torch.inference_mode(mode=False):
        block = Plain(weight)
    return tune_block(block, layers, inputs, None, others, settings)["x"]


def same(first, second):
    return (
        torch.equal(first.codes, second.codes)
        and torch.equal(first.scales, second.scales)
        and (first.zeros is None or torch.equal(first.zeros, second.zeros))
    )


def output_error(weight, found, inputs):
    return float(((found.dequantize() - weight) @ inputs.flatten(0, 1).t()).square().mean())


def test_straight_through_is_exact_and_passes_the_gradient():
    real = torch.tensor([0.1, 1e8, -0.4], requires_grad=True)
    found = straight_through(real * 2, real.detach().round())
    assert torch.equal(found.detach(), torch.tensor([0.0, 1e8, 0.0]))
    found.sum().backward()
    assert torch.equal(real.grad, torch.full((3,), 2.0))


def test_gradients_of_steps_are_those_of_lsq():
    # Weights in steps of 1: inside the range the derivative is code - weight, beyond it the extreme code.
    weight = torch.tensor([[0.3, -1.4, 0.0, 1.0]])
    start = RTN.quantize(weight, integer_format(2, 4))
    start = type(start)(torch.tensor([[0, -1, 0, 1]], dtype=torch.int8), torch.ones(1, 1), None, 4)
    one = LearnedWeight(weight, integer_format(2, 4), start, torch.float32)
    assert torch.allclose(one.weights.detach(), torch.tensor([[0.3, -1.4, 0.0, 1.0]]))
    pulls = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    (one.dequantized() * pulls).sum().backward()
    expected = 1.0 * (0 - 0.3) + 10.0 * (-1 + 1.4) + 1000.0 * (1 - 1.0)
    assert float(one.factors.grad) == pytest.approx(expected / 4**0.5, rel=1e-5)
    # What is an exact zero stays one, whatever pulls at it.
    assert torch.equal(one.weights.grad, torch.tensor([[1.0, 10.0, 0.0, 1000.0]]))


@given(
    st.integers(2, 8), st.booleans(), st.sampled_from([torch.bfloat16, torch.float32]), st.integers(0, 10**6)
)
@settings(max_examples=30, deadline=None)
def test_what_is_trained_is_what_the_container_holds(bits, symmetric, dtype, seed):
    weight = random(6, 64, seed=seed)
    weight[:, ::5] = 0.0
    weight[1] = 0.0
    wanted = integer_format(bits, 32, symmetric=symmetric)
    start = RTN.quantize(weight, wanted, None, dtype)
    for kind in (LearnedRounding, LearnedWeight):
        one = kind(weight, wanted, start, dtype)
        # Factors of a range give back a scale of few bits exactly, one in float32 to its last bit.
        assert torch.equal(one.result().codes, start.codes)
        assert torch.allclose(one.result().dequantize(), start.dequantize(), rtol=1e-6, atol=0)
        assert same(one.result(), start) or dtype == torch.float32
        with torch.no_grad():
            learned = one.offsets if kind is LearnedRounding else one.weights
            learned.add_(random(*learned.shape, seed=seed + 1) / 3).clamp_(-0.5, 0.5)
            one.factors.mul_(0.8)
        found = one.result()
        assert torch.equal(found.dequantize(), one.dequantized().detach())
        assert not bool(found.dequantize()[weight == 0].any())
        assert found.scales.dtype == dtype
        low, high = int(found.codes.min()), int(found.codes.max())
        assert -(1 << (bits - 1)) <= low <= high < 1 << (bits - 1)


def test_codes_of_a_better_method_are_kept_at_the_start():
    weight = random(4, 32)
    start = RTN.quantize(weight, integer_format(3, 32))
    moved = type(start)((start.codes + 1).clamp(-4, 3), start.scales, None, 32)
    found = LearnedWeight(weight, integer_format(3, 32), moved, torch.bfloat16).result()
    assert same(found, moved)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3])
def test_outputs_come_nearer_than_by_rounding(bits, symmetric):
    weight, inputs = random(32, 64), correlated_inputs()
    wanted = integer_format(bits, 32, symmetric=symmetric)
    found = tune(weight, wanted, inputs, RoundingSettings(steps=60, batch_windows=4))
    nearest = RTN.quantize(weight, wanted)
    assert output_error(weight, found, inputs) < 0.7 * output_error(weight, nearest, inputs)


def test_round_to_nearest_is_returned_where_nothing_is_better():
    # White inputs of one row: every code is already the nearest, and a step so small moves none.
    weight, inputs = random(8, 64), correlated_inputs()
    wanted = integer_format(4, 32)
    tiny = RoundingSettings(steps=1, learning_rate=1e-12, learn_scales=False)
    nearest = RTN.quantize(weight, wanted)
    assert same(tune(weight, wanted, inputs, tiny), nearest)
    exact = nearest.dequantize()
    assert torch.equal(tune(exact, wanted, inputs).dequantize(), exact)


def test_same_seed_same_codes_and_the_block_is_left_alone():
    weight, inputs = random(16, 64), correlated_inputs()
    before = weight.clone()
    first, again = (tune(weight, integer_format(2, 32), inputs) for _ in range(2))
    assert same(first, again)
    assert torch.equal(weight, before)
    other = RoundingSettings(steps=8, batch_windows=2, learning_rate=0.03, checks=2, seed=1)
    assert not same(first, tune(weight, integer_format(2, 32), inputs, other))


def test_tensors_of_inference_mode_are_trained_on():
    weight = random(16, 64)
    with torch.inference_mode():
        inputs, scale = correlated_inputs(), torch.tensor(1.5)
        inside = tune(weight, integer_format(2, 32), inputs, scale=scale)
    plain = tune(weight, integer_format(2, 32), correlated_inputs(), scale=torch.tensor(1.5))
    assert same(inside, plain)


@pytest.mark.parametrize("inputs", [torch.zeros(3, 8, 64), torch.ones(3, 8, 64)])
def test_constant_inputs_and_dead_weights_are_no_error(inputs):
    weight = random(8, 64)
    weight[3] = 0.0
    found = tune(weight, integer_format(2, 32), inputs).dequantize()
    assert torch.isfinite(found).all()
    assert not bool(found[3].any())


def test_what_is_not_finite_is_refused():
    inputs = correlated_inputs()
    broken = random(8, 64)
    broken[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        tune(broken, integer_format(2, 32), inputs)
    inputs[0, 0, 0] = float("inf")
    with pytest.raises(ModelError, match="fitted"):
        tune(random(8, 64), integer_format(2, 32), inputs)


@pytest.mark.parametrize(
    "wanted", [find_choice("nf4").weight, find_choice("fp8-channel").weight, WeightFormat()]
)
def test_formats_that_are_not_trained_are_refused(wanted):
    with pytest.raises(FormatError, match="not trained"):
        tune(random(8, 64), wanted, correlated_inputs())


@pytest.mark.parametrize("field", ["steps", "batch_windows", "checks", "learning_rate"])
def test_settings_are_checked(field):
    with pytest.raises(ConfigurationError, match=field):
        RoundingSettings(**{field: 0})


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "qwen3_moe"])
def test_every_layer_of_every_block_is_tuned(family, tmp_path):
    bench = make_bench(family, tmp_path, num_hidden_layers=2)
    spec, windows = bench.spec, make_windows(5)
    formats = {x.name: integer_format(3, GROUP) for x in spec.block_linears}
    before = {name: (p.data_ptr(), p.clone()) for name, p in bench.model.named_parameters()}
    found = dict(tune_model(bench.model, spec, windows, formats, QUICK))
    assert list(found) == [x.name for x in spec.block_linears]
    for name, one in found.items():
        linear = spec.linear(name)
        assert one.codes.shape == (linear.experts * linear.out_features, linear.in_features)
    assert all(
        p.data_ptr() == before[n][0] and torch.equal(p, before[n][1])
        for n, p in bench.model.named_parameters()
    )
    assert _first_block_error(bench, windows, found) < _first_block_error(
        bench, windows, {x.name: _nearest(bench.model, x) for x in spec.block_linears if x.block == 0}
    )


def _nearest(model, linear):
    weight = model.get_parameter(linear.parameter).float()
    weight = weight.t() if linear.transposed else weight.reshape(-1, linear.in_features)
    return RTN.quantize(weight, integer_format(3, GROUP))


@torch.no_grad()
def _first_block_error(bench, windows, found):
    stream = BlockStream(bench.model, bench.spec, windows, windows.window_tokens)
    inputs = stream.hidden
    stream.advance()
    rounded = BlockStream(bench.model, bench.spec, windows, windows.window_tokens)
    slots = [(bench.model.get_parameter(x.parameter), x) for x in bench.spec.block_linears if x.block == 0]
    dense = [parameter.data for parameter, _ in slots]
    for parameter, linear in slots:
        weight = found[linear.name].dequantize()
        parameter.data = (
            weight.t().contiguous() if linear.transposed else weight.view(linear.stored_shape)
        ).to(parameter.dtype)
    rounded.observe()
    assert all(torch.equal(x, y) for x, y in zip(inputs, rounded.hidden, strict=True))
    rounded.advance()
    for (parameter, _), data in zip(slots, dense, strict=True):
        parameter.data = data
    return float((torch.cat(stream.hidden) - torch.cat(rounded.hidden)).square().mean())


def test_in_sequence_the_first_block_is_the_same_and_later_ones_differ(llama):
    formats = {x.name: integer_format(2, GROUP) for x in llama.spec.block_linears if x.block in (0, 2)}
    alone, sequence = (
        dict(tune_model(llama.model, llama.spec, make_windows(), formats, QUICK, sequential))
        for sequential in (False, True)
    )
    assert set(alone) == set(sequence) == set(formats)
    for name in formats:
        assert same(alone[name], sequence[name]) == (llama.spec.linear(name).block == 0)
    assert all(not p.requires_grad and p.grad is None for p in llama.model.parameters())


def test_layers_outside_the_blocks_are_refused(llama):
    formats = {llama.spec.embedding.name: integer_format(8, GROUP)}
    with pytest.raises(ConfigurationError, match="no block"):
        next(tune_model(llama.model, llama.spec, make_windows(), formats, QUICK))


def gptq_config(spec, bits, **choice):
    wanted = LayerChoice(weight=integer_format(bits, GROUP), method="gptq", **choice)
    return CompressionConfig(layers={x.name: wanted for x in spec.block_linears})


def build_covariances(bench):
    restrictions = Restrictions(bits=(3, 16), embedding_bits=(16,), group_size=GROUP, methods=("gptq",))
    bench.bank.build(SearchSpace(bench.spec, FakeLegality(), restrictions, bench.bank.block_order))


def test_refined_layers_see_the_compressed_model(llama):
    build_covariances(llama)
    config = gptq_config(llama.spec, 3)
    layers = dict(config.layers)
    layers["model.layers.0.mlp.down_proj"] = LayerChoice(weight=integer_format(3, GROUP), method="rtn")
    config = CompressionConfig(layers=layers)
    told = []
    found = refine(llama.assembler, config, make_windows(), lambda *progress: told.append(progress))
    assert [x[0] for x in told] == list(found)
    assert told[-1][1:] == (len(found), len(layers) - 1)
    bank = {name: llama.bank.quantized(name, config.choice(name)) for name in found}
    # What reads the embedding alone is as in the bank; nothing after it is.
    assert {name for name in found if same(found[name], bank[name])} == {
        f"model.layers.0.self_attn.{x}_proj" for x in "qkv"
    }
    # The last of them against GPTQ on what really enters it.
    last = "model.layers.2.mlp.down_proj"
    slots = dict(llama.model.named_parameters())
    for name, one in found.items():
        slots[f"{name}.weight"].data = one.dequantize()
    seen = []
    hook = llama.model.get_submodule(last).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.inference_mode():
        llama.model(input_ids=make_windows().ids, use_cache=False)
    hook.remove()
    rows = torch.cat(seen).flatten(0, 1)
    covariance = rows.t() @ rows / len(rows)
    weight = load_dense(llama.folder, llama.spec).get_submodule(last).weight.data
    one = find_quantizer("gptq").quantize(
        weight, integer_format(3, GROUP), LayerStatistics(covariance.diagonal().clone(), covariance)
    )
    assert float((one.codes == found[last].codes).float().mean()) > 0.999


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned": PrunedShape(blocks=(0, 2))},
        {"pruned": PrunedShape(ffn_channels=128)},
        {"sparsity": Sparsity(fraction=0.5)},
    ],
)
def test_cuts_and_zeros_are_refined_as_they_are(llama, changes):
    pruned = changes.pop("pruned", PrunedShape())
    config = gptq_config(llama.spec, 3, **changes)
    kept = {name: x for name, x in config.layers.items() if pruned.keeps_block(llama.spec.linear(name).block)}
    config = CompressionConfig(layers=kept, pruned=pruned)
    build_covariances(llama)
    found = refine(llama.assembler, config, make_windows())
    assert set(found) == set(kept)
    for name, one in found.items():
        choice = config.choice(name)
        like = llama.bank.quantized(name, choice, pruned)
        assert one.codes.shape == like.codes.shape
        if choice.sparsity is not None:
            assert float((one.codes == 0).float().mean()) >= 0.5
        held = dict(llama.assembler.model.named_parameters())
        if pruned.blocks is None:
            assert torch.equal(held[f"{name}.weight"], llama.bank.tensor(name, choice, pruned))


def test_experts_are_refined_one_by_one(mixture):
    config = gptq_config(mixture.spec, 3)
    build_covariances(mixture)
    found = refine(mixture.assembler, config, make_windows())
    assert set(found) == set(config.layers)
    for name, one in found.items():
        linear = mixture.spec.linear(name)
        assert one.codes.shape == (linear.experts * linear.out_features, linear.in_features)
    # A mixture's first block sees the same inputs as the bank's.
    first = "model.layers.0.self_attn.q_proj"
    assert same(found[first], mixture.bank.quantized(first, config.choice(first)))


def test_nothing_to_refine_is_refused(llama):
    layer = {"model.layers.0.mlp.up_proj": LayerChoice(weight=integer_format(3, GROUP), method="rtn")}
    with pytest.raises(ConfigurationError, match="nothing to refine"):
        refine(llama.assembler, CompressionConfig(layers=layer), make_windows())
