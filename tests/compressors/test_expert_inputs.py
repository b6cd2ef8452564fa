"""Rounded inputs of experts: both projections, in every family of mixtures, and the model's own pass afterwards."""

import copy

import pytest
import torch

from paretune.compressors.expert_forward import RoundedDown, experts_forward
from paretune.compressors.rounding import calibrated_factor, fake_input
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, FormatError
from paretune.spaces.named_formats import WITH_INPUTS
from tests.compressors.conftest import make_bench, make_windows

IDS = torch.arange(60).view(2, 30)
FAMILIES = ("mixtral", "qwen3_moe")
FORMATS = {name: inputs for name, (_, inputs) in WITH_INPUTS.items()}
"""All that there are; groups of 128 divide the tiny experts' 128 channels, and a hidden size of 128."""


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request, tmp_path_factory):
    return make_bench(
        request.param, tmp_path_factory.mktemp(request.param), dtype="bfloat16", hidden_size=128
    )


def layers(bench, block=1):
    """Of a block: what enters its experts, and what arises inside them."""
    first, second = (
        next(x.name for x in bench.spec.of_role(role) if x.block == block)
        for role in ("expert_gate_up", "expert_down")
    )
    return first, second


def experts(bench, block=1):
    return bench.model.get_submodule(layers(bench, block)[0].rpartition(".")[0])


def rounding(wanted, *names, pruned=None):
    chosen = dict.fromkeys(names, LayerChoice(activation=wanted))
    return CompressionConfig(layers=chosen, pruned=pruned or PrunedShape())


def entered(bench, config):
    """Arguments of an experts module as it is called, and what it answers."""
    seen = []
    handle = experts(bench).register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    bench.assembler.apply(config)(IDS)
    handle.remove()
    return seen[0]


def written_out(module, hidden, chosen, weights, first, second):
    """Token by token, in float64: what rounded inputs of both projections give."""
    found = torch.zeros_like(hidden, dtype=torch.float64)
    rounded = first(hidden).double()
    for expert in range(len(module.gate_up_proj)):
        reached, place = torch.where(chosen == expert)
        gate, up = (rounded[reached] @ module.gate_up_proj[expert].double().T).chunk(2, dim=-1)
        inner = second((module.act_fn(gate) * up).float()).double()
        found[reached] += (inner @ module.down_proj[expert].double().T) * weights[
            reached, place, None
        ].double()
    return found


@pytest.mark.parametrize("pruned", [PrunedShape(), PrunedShape(ffn_channels=64)], ids=["whole", "narrower"])
def test_without_rounding_the_pass_is_the_models_own(bench, pruned):
    *arguments, output = entered(bench, CompressionConfig(pruned=pruned))
    found = experts_forward(experts(bench), lambda rows: rows, *arguments)
    torch.testing.assert_close(found, output, rtol=1e-5, atol=1e-7 * float(output.abs().max()))
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        module = experts(bench)
        module.config, before = copy.copy(module.config), module.config
        module.config._experts_implementation = implementation
        other = module(*arguments)
        module.config = before
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6 * float(output.abs().max()))


def test_experts_that_no_token_chose_are_no_trouble(bench):
    module, hidden = experts(bench), torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    bench.assembler.apply(DENSE_CONFIG)
    chosen, weights = torch.tensor([[2, 0]] * 3), torch.full((3, 2), 0.5)
    found = experts_forward(module, lambda rows: rows, hidden, chosen, weights)
    torch.testing.assert_close(found, module(hidden, chosen, weights), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", FORMATS)
def test_both_inputs_are_rounded(bench, name):
    """Each alone and both, against the pass written out in float64 with inputs rounded where they enter."""
    wanted, (first, second) = FORMATS[name], layers(bench)
    hidden, chosen, weights, plain = entered(bench, DENSE_CONFIG)

    def rounded(layer):
        factor = None
        if wanted.calibrated:
            seen = bench.bank.statistics.layer(layer)
            peak = seen.peak.amax()
            if wanted.number_type == "int":
                peak = torch.minimum(peak, seen.usual_peak[0])
            factor = calibrated_factor(wanted, peak, torch.bfloat16)
        return lambda rows: fake_input(rows, wanted, factor)

    module = experts(bench)
    for names in ((first,), (second,), (first, second)):
        *_, output = entered(bench, rounding(wanted, *names))
        both = (rounded(layer) if layer in names else lambda rows: rows for layer in (first, second))
        expected = written_out(module, hidden, chosen, weights, *both)
        step = (expected - plain).abs().mean()
        assert step > 0
        # A number near the middle of two codes may go either way; such are few.
        assert (output - expected).abs().mean() < 0.02 * step
    bench.assembler.apply(DENSE_CONFIG)


def test_the_models_own_pass_is_put_back(bench):
    module, (first, second) = experts(bench), layers(bench)
    before = bench.assembler.apply(DENSE_CONFIG)(IDS).logits.clone()
    names = set(vars(module))
    bench.assembler.apply(rounding(ActivationFormat(), first, second))
    assert "forward" in vars(module)
    assert not torch.equal(bench.model(IDS).logits, before)
    assert torch.equal(bench.assembler.apply(DENSE_CONFIG)(IDS).logits, before)
    assert set(vars(module)) == names
    assert not module._forward_pre_hooks


def test_another_replacement_is_put_back_too(bench):
    module, before = experts(bench), object()
    module.forward = before
    rounded = RoundedDown(module, lambda rows: rows)
    rounded.remove()
    assert module.forward is before
    del module.forward


def test_a_block_alone_is_rounded(bench):
    """Blocks before it see what they saw."""
    wanted = ActivationFormat(number_type="float")
    hidden = entered(bench, DENSE_CONFIG)[0]
    assert torch.equal(entered(bench, rounding(wanted, *layers(bench, 2)))[0], hidden)
    assert not torch.equal(entered(bench, rounding(wanted, *layers(bench, 0)))[0], hidden)


def test_a_static_scale_is_of_the_largest_input_of_any_expert(bench):
    wanted = ActivationFormat(number_type="float", strategy="tensor", dynamic=False)
    _, second = layers(bench)
    seen = bench.bank.statistics.layer(second)
    assert len(set(seen.peak.amax(dim=1).tolist())) > 1
    module, pruned = experts(bench), PrunedShape(ffn_channels=64)
    for cut in (PrunedShape(), pruned):
        bench.assembler.apply(rounding(wanted, second, pruned=cut))
        order = bench.bank.statistics.importance("channels", 1).argsort(dim=-1, descending=True, stable=True)
        kept = seen.peak if cut.whole else seen.peak.gather(1, order[:, :64])
        factor = module.forward.args[1].keywords["factor"]
        assert torch.equal(factor, calibrated_factor(wanted, kept.amax(), torch.bfloat16))


def test_usual_peaks_of_experts_are_medians_over_windows(bench):
    seen, windows = [], make_windows()
    module = experts(bench)
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    bench.assembler.apply(DENSE_CONFIG)(windows.ids)
    handle.remove()
    hidden, chosen, weights = seen[0]
    inner = []
    experts_forward(module, lambda rows: inner.append(rows) or rows, hidden, chosen, weights)
    tokens = chosen.reshape(-1).argsort(stable=True) // chosen.shape[1]
    largest = torch.zeros(len(hidden)).scatter_reduce(0, tokens, inner[0].abs().amax(dim=1), "amax")
    for layer, sizes in zip(layers(bench), (hidden.abs().amax(dim=1), largest), strict=True):
        found = bench.bank.statistics.layer(layer)
        usual = sizes.view(len(windows.ids), -1).amax(dim=1).median()
        torch.testing.assert_close(found.usual_peak[0], usual, rtol=1e-5, atol=0)
        assert found.usual_peak[0] < found.peak.amax()
        torch.testing.assert_close(found.peak.amax(), sizes.amax(), rtol=1e-5, atol=0)


def test_groups_that_do_not_divide_the_kept_channels_are_refused(bench):
    _, second = layers(bench)
    wanted = FORMATS["fp8-block-dynamic"]
    bench.assembler.apply(DENSE_CONFIG)
    with pytest.raises(FormatError, match="64 features"):
        bench.assembler.apply(rounding(wanted, second, pruned=PrunedShape(ffn_channels=64)))
    assert bench.assembler.config == DENSE_CONFIG
    assert "forward" not in vars(experts(bench))


@pytest.mark.parametrize("name", ["has_bias", "is_transposed"])
def test_experts_of_another_make_are_refused(bench, name):
    module = copy.copy(experts(bench))
    setattr(module, name, True)
    with pytest.raises(ConfigurationError, match=f"{name} is True"):
        RoundedDown(module, lambda rows: rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(bench):
    arguments = [x.cuda() for x in entered(bench, DENSE_CONFIG)[:-1]]
    module = copy.deepcopy(experts(bench)).cuda()
    found = experts_forward(module, lambda rows: rows, *arguments)
    torch.testing.assert_close(found, module(*arguments), rtol=1e-4, atol=1e-7)
