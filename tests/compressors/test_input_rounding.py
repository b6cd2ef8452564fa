"""Rounded inputs: bit for bit what compressed-tensors computes, at the layers that say so and nowhere else."""

import json

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, quant_scheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils.helpers import (
    calculate_qparams,
    compute_dynamic_scales_and_zp,
    generate_gparam,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.compressors.rounding import calibrated_factor, fake_input
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, FormatError, RunError
from paretune.spaces.schema import sealed, unsealed
from tests.compressors.conftest import make_bench, make_windows

IDS = torch.arange(60).view(2, 30)
DOWN = "model.layers.1.mlp.down_proj"
COLUMNS = 256

NVFP4 = ActivationFormat(num_bits=4, number_type="float", strategy="group", group_size=16, scale="fp8")
STATIC8 = ActivationFormat(strategy="tensor", dynamic=False)
FORMATS = {
    "INT8": ActivationFormat(),
    "FP8_DYNAMIC": ActivationFormat(number_type="float"),
    "FP8": ActivationFormat(number_type="float", strategy="tensor", dynamic=False),
    "FP8_BLOCK": ActivationFormat(number_type="float", strategy="group", group_size=128),
    "NVFP4": NVFP4,
    "MXFP4": ActivationFormat(
        num_bits=4, number_type="float", strategy="group", group_size=32, scale="exponent"
    ),
    "MXFP8": ActivationFormat(number_type="float", strategy="group", group_size=32, scale="exponent"),
    "static int8": STATIC8,
}
"""By the name of their preset scheme; a static INT8 has none."""


def arguments(scheme):
    if scheme == "static int8":
        return QuantizationArgs(num_bits=8, type="int", strategy="tensor", symmetric=True, dynamic=False)
    return quant_scheme.PRESET_SCHEMES[scheme]["input_activations"]


def theirs(values, scheme, peak):
    args = arguments(scheme)
    factor = generate_gparam(-peak, peak) if args.strategy == "tensor_group" else None
    if args.dynamic:
        scale, zero = compute_dynamic_scales_and_zp(values, args, None, factor)
    else:
        scale, zero = calculate_qparams(-peak, peak, args)
    return fake_quantize(values, scale, zero, args, factor)


def ours(values, scheme, peak):
    wanted = FORMATS[scheme]
    factor = calibrated_factor(wanted, peak, torch.float32) if wanted.calibrated else None
    return fake_input(values, wanted, factor)


def _drawn(kind, seed, exponent):
    values = torch.randn(2, 3, COLUMNS, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    if kind == "zeros":
        return torch.zeros_like(values)
    if kind == "constant":
        return values[0, 0, :1].expand(2, 3, COLUMNS).contiguous()
    if kind == "outlier":
        values[1, 2, 7] = -3e4 * 2.0**exponent
    if kind == "zero token":
        values[0] = 0.0
    if kind == "dead channels":
        values[..., 32:96] = 0.0
    if kind == "halves":  # ties
        values = (values * 2).round() / 2
    return values


KINDS = st.sampled_from(["normal", "zeros", "constant", "outlier", "zero token", "dead channels", "halves"])


@pytest.mark.parametrize("scheme", FORMATS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kind=KINDS,
    seed=st.integers(0, 10**6),
    exponent=st.integers(-40, 40),
    ratio=st.sampled_from([1.0, 0.3, 4.0]),
)
def test_parity_with_compressed_tensors(scheme, kind, seed, exponent, ratio):
    """``ratio``: of the peak in calibration and the peak here. A negative zero of theirs is a zero of ours."""
    values = _drawn(kind, seed, exponent)
    peak = (values.abs().max() * ratio).clamp_min(1e-30)
    assert torch.equal(ours(values, scheme, peak), theirs(values, scheme, peak))


@pytest.mark.parametrize("scheme", FORMATS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=128, max_size=128))
def test_parity_on_any_finite_numbers(scheme, numbers):
    values = torch.tensor(numbers).view(1, 1, 128)
    peak = values.abs().max().clamp_min(1e-30)
    assert torch.equal(ours(values, scheme, peak), theirs(values, scheme, peak))


def test_where_theirs_differs_for_zeros():
    """Calibrated on zeros, their static scale is the epsilon of float32 and ours is 1; zeros stay zeros."""
    peak, values = torch.tensor(0.0), torch.tensor([[[0.0, 3.2, -1.0, 0.0]]])
    scale, _ = calculate_qparams(-peak, peak, arguments("static int8"))
    assert float(scale) == torch.finfo(torch.float32).eps
    assert float(calibrated_factor(STATIC8, peak, torch.float32)) == 1.0
    assert ours(values, "static int8", peak).tolist() == [[[0.0, 3.0, -1.0, 0.0]]]
    # The factor of NVFP4 is 1 in both.
    assert generate_gparam(-peak, peak).item() == float(calibrated_factor(NVFP4, peak, torch.float32)) == 1.0


def test_golden_numbers():
    values = torch.tensor([[127.5, 63.4, -127.5, 0.49]])
    assert fake_input(values, FORMATS["INT8"]).tolist() == [[127.0, 63.0, -128.0, 0.0]]
    static = calibrated_factor(STATIC8, torch.tensor(255.0), torch.float32)
    assert fake_input(torch.tensor([[3.0, 5.1, 999.0]]), STATIC8, static).tolist() == [[4.0, 6.0, 254.0]]
    floats = fake_input(torch.tensor([[448.0, 17.1, -9.4]]), FORMATS["FP8_DYNAMIC"])
    assert floats.tolist() == [[448.0, 18.0, -9.0]]
    assert float(calibrated_factor(NVFP4, torch.tensor(2.0), torch.bfloat16)) == 448 * 6 / 2


def test_a_static_scale_is_what_is_stored():
    found = calibrated_factor(STATIC8, torch.tensor(1.0), torch.bfloat16)
    assert found.dtype == torch.float32
    assert float(found) == float(torch.tensor(1.0 / 127.5).to(torch.bfloat16)) != 1.0 / 127.5


@pytest.mark.parametrize("scheme", FORMATS)
def test_a_broken_input_is_seen(scheme):
    values = torch.ones(1, 2, COLUMNS)
    values[0, 0, 3] = float("nan")
    found = ours(values, scheme, torch.tensor(1.0))
    assert found[0, 0, 3].isnan()
    if FORMATS[scheme].strategy != "tensor":
        assert found[0, 1].isfinite().all()


@pytest.mark.parametrize("scheme", FORMATS)
def test_dtype_and_shape_are_kept(scheme):
    values = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = ours(values, scheme, values.abs().max())
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert 0 < (found - values).abs().max() < 0.3 * values.abs().max()
    assert ours(values[:0], scheme, torch.tensor(1.0)).shape == (0, COLUMNS)


def test_what_cannot_be_rounded_is_refused():
    with pytest.raises(FormatError, match="100 features"):
        fake_input(torch.ones(2, 100), FORMATS["FP8_BLOCK"])
    with pytest.raises(FormatError, match="is calibrated"):
        fake_input(torch.ones(2, 128), STATIC8)


def inputs_of(bench, layer, configs):
    """Inputs that the linear computes with, after its hooks, a candidate."""
    seen = []
    module = bench.model.get_submodule(layer)
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].clone()))
    for config in configs:
        bench.assembler.apply(config)(IDS)
    handle.remove()
    return seen


def rounding(layer, wanted, **fields):
    return CompressionConfig(layers={layer: LayerChoice(activation=wanted)}, **fields)


@pytest.mark.parametrize("scheme", [name for name in FORMATS if name != "FP8_BLOCK"])
def test_inputs_are_rounded_at_the_layers_that_say_so(llama, scheme):
    dense = llama.model(IDS).logits.clone()
    before, after = inputs_of(llama, DOWN, [DENSE_CONFIG, rounding(DOWN, FORMATS[scheme])])
    wanted, factor = FORMATS[scheme], None
    if wanted.calibrated:
        seen = llama.bank.statistics.layer(DOWN)
        peak = seen.usual_peak[0] if wanted.number_type == "int" else seen.peak.amax()
        factor = calibrated_factor(wanted, peak, torch.bfloat16)
    assert torch.equal(after, fake_input(before, wanted, factor))
    assert not torch.equal(after, before)
    changed = inputs_of(llama, DOWN, [rounding("lm_head", wanted)])[0]
    assert torch.equal(changed, before)
    assert torch.equal(llama.assembler.apply(DENSE_CONFIG)(IDS).logits, dense)


def test_formats_follow_one_another_at_a_layer(llama):
    first, second = rounding(DOWN, STATIC8), rounding(DOWN, FORMATS["MXFP8"])
    alone = inputs_of(llama, DOWN, [second])[0]
    assert torch.equal(inputs_of(llama, DOWN, [first, second, second])[2], alone)


def test_peaks_are_the_largest_magnitudes_of_calibration(llama):
    seen = []
    handle = llama.model.get_submodule(DOWN).register_forward_pre_hook(lambda _, i: seen.append(i[0]))
    llama.model(make_windows().ids)
    handle.remove()
    found = llama.bank.statistics.layer(DOWN)
    torch.testing.assert_close(found.peak, seen[0].flatten(0, 1).abs().amax(dim=0))
    kept = torch.tensor([1, 5])
    assert torch.equal(found.columns(kept).peak, found.peak[kept])
    assert (found.peak.square() >= found.second_moment * 0.9999).all()


def test_the_usual_peak_is_the_median_of_windows(llama):
    seen = []
    handle = llama.model.get_submodule(DOWN).register_forward_pre_hook(lambda _, i: seen.append(i[0]))
    llama.model(make_windows().ids)
    handle.remove()
    found = llama.bank.statistics.layer(DOWN)
    torch.testing.assert_close(found.usual_peak[0], seen[0].abs().flatten(1).amax(dim=1).median())
    assert found.usual_peak[0] < found.peak.amax()


def test_peaks_of_experts_are_of_the_tokens_that_reached_them(mixture):
    for name in ("gate_up_proj", "down_proj"):
        found = mixture.bank.statistics.layer(f"model.layers.0.mlp.experts.{name}")
        assert found.peak.shape == found.second_moment.shape
        assert (found.peak.square() >= found.second_moment * 0.9999).all()
        assert torch.equal(found.expert(2).peak, found.peak[2])


def test_a_static_scale_of_a_smaller_pruned_is_of_the_channels_it_keeps(llama):
    pruned = PrunedShape(ffn_channels=64)
    found = llama.bank.statistics.layer(DOWN)
    order = llama.bank.statistics.importance("channels", 1).argsort(descending=True, stable=True)
    configs = [CompressionConfig(pruned=pruned), rounding(DOWN, STATIC8, pruned=pruned)]
    before, after = inputs_of(llama, DOWN, configs)
    peak = torch.minimum(found.peak[order[:64]].amax(), found.usual_peak[0])
    factor = calibrated_factor(STATIC8, peak, torch.bfloat16)
    assert torch.equal(after, fake_input(before, STATIC8, factor))
    other = ActivationFormat(number_type="float", strategy="tensor", dynamic=False)
    before, after = inputs_of(llama, DOWN, [configs[0], rounding(DOWN, other, pruned=pruned)])
    factor = calibrated_factor(other, found.peak[order[:64]].amax(), torch.bfloat16)
    assert torch.equal(after, fake_input(before, other, factor))


def test_groups_that_do_not_divide_the_kept_channels_are_refused(llama):
    fits = rounding(DOWN, NVFP4, pruned=PrunedShape(ffn_channels=64))
    llama.assembler.apply(fits)
    with pytest.raises(FormatError, match="40 features"):
        llama.assembler.apply(rounding(DOWN, NVFP4, pruned=PrunedShape(ffn_channels=40)))
    assert llama.assembler.config == fits


def test_inputs_that_cannot_be_rounded_are_refused(mixture):
    for wanted in (ActivationFormat(), STATIC8):
        with pytest.raises(ConfigurationError, match=r"model\.embed_tokens.*token numbers"):
            mixture.assembler.apply(rounding("model.embed_tokens", wanted))


def test_a_static_scale_needs_calibration(llama):
    peak = llama.bank.statistics.tensors.pop(f"peak/{DOWN}")
    for wanted in (STATIC8, NVFP4):
        with pytest.raises(ConfigurationError, match=r"did not observe.*dynamic format"):
            llama.assembler.apply(rounding(DOWN, wanted))
    llama.assembler.apply(rounding(DOWN, FORMATS["MXFP4"]))
    for broken in (float("nan"), float("inf")):
        llama.bank.statistics.tensors[f"peak/{DOWN}"] = peak.index_fill(0, torch.tensor([4]), broken)
        for wanted in (STATIC8, NVFP4):
            with pytest.raises(ConfigurationError, match=f"reached {broken}"):
                llama.assembler.apply(rounding(DOWN, wanted))


def test_a_bank_with_older_statistics_is_refused(tmp_path):
    make_bench("llama", tmp_path)
    file = tmp_path / "bank" / "bank.json"
    content = unsealed(json.loads(file.read_text()))
    assert content.pop("statistics_version") == "5"
    file.write_text(json.dumps(sealed(content)))
    with pytest.raises(RunError, match="version 1 of statistics, this is version 5"):
        make_bench("llama", tmp_path)


def test_largest_magnitudes_become_127_where_a_kernel_does_so():
    values = torch.tensor([[127.0, -127.0, 63.4, 0.5, 1.5]])
    found = fake_input(values, ActivationFormat(codes="positive"))
    assert found.tolist() == [[127.0, -127.0, 63.0, 0.0, 2.0]]
    for refused in ({"number_type": "float"}, {"strategy": "tensor", "dynamic": False}):
        with pytest.raises(FormatError, match="codes"):
            ActivationFormat.model_validate({"codes": "positive", **refused})
