"""GPTQ against the update it abbreviates; covariances against the inputs they summarise; the bank that keeps them."""

import pytest
import torch

from paretune.compressors.block_stream import BlockStream
from paretune.compressors.covariance import covariance_bytes, gather_covariances, keeper
from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.quantizers.gptq import inverse_factor
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.errors import ModelError
from paretune.spaces.formats import integer_format
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import GROUP, make_bench, make_windows
from tests.fakes import FakeLegality

GPTQ = find_quantizer("gptq")


def correlated(columns, tokens=400, seed=0):
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=random) / columns**0.5 + 0.3
    inputs = torch.randn(tokens, columns, generator=random) @ mixing
    return inputs.t() @ inputs / tokens


def statistics(covariance):
    return LayerStatistics(covariance.diagonal().clone(), covariance)


def brute_force(weight, scales, zeros, covariance, bits):
    """Optimal Brain Quantization in a fixed order: the whole inverse updated after every column."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    columns = weight.shape[1]
    damped = covariance.double() + 0.01 * covariance.diagonal().mean() * torch.eye(columns).double()
    inverse = torch.linalg.inv(damped)
    left, codes = weight.double().clone(), torch.zeros_like(weight)
    for column in torch.argsort(covariance.diagonal(), descending=True, stable=True).tolist():
        code = (left[:, column] / scales[:, column] + 0).round() + zeros[:, column]
        code = code.clamp(low, high)
        error = left[:, column] - (code - zeros[:, column]) * scales[:, column]
        left -= error[:, None] * inverse[column] / inverse[column, column]
        inverse = inverse - inverse[:, column, None] * inverse[column] / inverse[column, column]
        inverse[column, column] = 1.0
        codes[:, column] = code.float()
    return codes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_codes_are_those_of_the_update_it_abbreviates(bits, symmetric):
    weight = torch.randn(24, 160, generator=torch.Generator().manual_seed(1))
    covariance = correlated(160)
    found = GPTQ.quantize(weight, integer_format(bits, 32, symmetric=symmetric), statistics(covariance))
    wide = found.scales.float().repeat_interleave(32, dim=1)
    zeros = (
        torch.zeros_like(wide) if found.zeros is None else found.zeros.float().repeat_interleave(32, dim=1)
    )
    expected = brute_force(weight, wide.double(), zeros.double(), covariance, bits)
    # A weight in the middle between two codes may fall either way in float32, and takes what follows in its row along.
    other = (found.codes != expected).any(dim=1)
    assert other.sum() <= 1


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_output_error_is_below_that_of_rounding(bits):
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(2))
    covariance = correlated(128)
    wanted = integer_format(bits, 64)

    def error(found):
        difference = found.dequantize() - weight
        return float(((difference @ covariance) * difference).sum())

    plain = error(find_quantizer("rtn").quantize(weight, wanted))
    assert error(GPTQ.quantize(weight, wanted, statistics(covariance))) < 0.7 * plain


def test_white_inputs_leave_every_weight_to_itself():
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    found = GPTQ.quantize(weight, integer_format(4, 32), statistics(torch.eye(64) * 2.5))
    wide = found.scales.float().repeat_interleave(32, dim=1)
    assert torch.equal(found.codes.float(), (weight / wide).round().clamp(-8, 7))


def test_without_a_covariance_it_rounds_to_nearest():
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    wanted = integer_format(3, 32)
    found, plain = GPTQ.quantize(weight, wanted), find_quantizer("rtn").quantize(weight, wanted)
    assert torch.equal(found.codes, plain.codes)
    assert torch.equal(found.scales, plain.scales)


def test_pruned_weights_stay_pruned():
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(4))
    weight[:, ::2] = 0.0
    for symmetric in (True, False):
        found = GPTQ.quantize(weight, integer_format(3, 32, symmetric=symmetric), statistics(correlated(64)))
        assert not found.dequantize()[weight == 0].any()


@pytest.mark.parametrize("kind", ["singular", "constant", "dead", "nothing"])
def test_poor_covariances_are_survived(kind):
    covariance = {
        "singular": correlated(64, tokens=3),
        "constant": torch.ones(64, 64),
        "dead": correlated(64).index_fill(0, torch.tensor([5]), 0.0).index_fill(1, torch.tensor([5]), 0.0),
        "nothing": torch.zeros(64, 64),
    }[kind]
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(5))
    found = GPTQ.quantize(weight, integer_format(4, 32), statistics(covariance)).dequantize()
    assert torch.isfinite(found).all()
    assert float((found - weight).abs().max()) < 3.0


def test_a_covariance_that_is_not_finite_is_refused():
    with pytest.raises(ModelError, match="NaN"):
        inverse_factor(torch.full((4, 4), float("nan")))


def test_factor_is_of_the_damped_inverse():
    covariance = correlated(32)
    order, factor = inverse_factor(covariance)
    damped = covariance.double() + 0.01 * covariance.diagonal().double().mean() * torch.eye(32).double()
    inverse = torch.linalg.inv(damped)[order][:, order]
    assert torch.allclose(factor.double().t() @ factor.double(), inverse, rtol=1e-4, atol=1e-6)
    assert torch.equal(factor, factor.triu())


def test_all_rows_at_once_or_one_by_one():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(6))
    seen, wanted = statistics(correlated(64)), integer_format(3, 32)
    whole = GPTQ.quantize(weight, wanted, seen).codes
    assert torch.equal(whole, torch.cat([GPTQ.quantize(row[None], wanted, seen).codes for row in weight]))


def test_blocks_one_by_one_are_the_model(llama):
    windows = make_windows()
    stream = BlockStream(llama.model, llama.spec, windows, 2 * windows.window_tokens)
    seen = []
    last = llama.model.get_submodule(llama.spec.block_path)[-1]
    handle = last.register_forward_hook(lambda *a: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2]))
    for _ in range(llama.spec.blocks):
        stream.advance()
    streamed, seen[:] = torch.cat(seen), []
    with torch.inference_mode():
        llama.model(input_ids=windows.ids, use_cache=False)
    handle.remove()
    assert torch.allclose(streamed, torch.cat(seen), atol=1e-5)


@pytest.mark.parametrize(
    "family", ["llama", "gemma3", "gpt2", "opt", "gpt_neox", "phi3", "qwen3_moe", "mixtral"]
)
def test_covariances_are_those_of_the_inputs(family, tmp_path):
    any_model = make_bench(family, tmp_path)
    windows = make_windows()
    found = dict(gather_covariances(any_model.model, any_model.spec, windows))
    assert set(found) == {keeper(any_model.spec, x).name for x in any_model.spec.block_linears}
    assert sum(4 * c.numel() for c in found.values()) == covariance_bytes(any_model.spec)
    for linear in any_model.spec.block_linears:
        diagonal = found[keeper(any_model.spec, linear).name].diagonal(dim1=-2, dim2=-1)
        seen = any_model.bank.statistics.layer(linear.name)
        assert torch.allclose(diagonal, seen.second_moment, rtol=1e-3, atol=1e-6)


def test_the_bank_gathers_them_once(llama):
    space = SearchSpace(
        llama.spec,
        FakeLegality(),
        Restrictions(
            bits=(3, 16), embedding_bits=(16,), group_size=GROUP, methods=("gptq",), sparsity=(0.0, 0.5)
        ),
        llama.bank.block_order,
    )
    llama.bank.build(space)
    layer = "model.layers.1.mlp.down_proj"
    covariance = llama.bank.folder / "entries" / "covariance" / f"{layer}.safetensors"
    first = covariance.stat().st_mtime_ns
    wanted = LayerChoice(weight=integer_format(3, GROUP), method="gptq")
    weight = llama.model.get_submodule(layer).weight.data.float()
    plain = llama.bank.tensor(layer, wanted.model_copy(update={"method": "rtn"}))
    better = llama.bank.tensor(layer, wanted)
    assert not torch.equal(plain, better)
    seen = dict(gather_covariances(llama.model, llama.spec, make_windows()))[layer]
    errors = [float((((t - weight) @ seen) * (t - weight)).sum()) for t in (better, plain)]
    assert errors[0] < errors[1]
    sparse = wanted.model_copy(update={"sparsity": Sparsity(fraction=0.5)})
    assert float((llama.bank.tensor(layer, sparse) == 0).float().mean()) >= 0.5
    llama.bank.build(space)
    assert covariance.stat().st_mtime_ns == first


def test_several_formats_at_once_are_as_one_by_one():
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(7))
    seen = statistics(correlated(96))
    formats = [
        integer_format(bits, 32, symmetric=symmetric) for bits in (2, 4, 8) for symmetric in (True, False)
    ]
    together = GPTQ.quantize_all(weight, formats, seen)
    for wanted, found in zip(formats, together, strict=True):
        alone = GPTQ.quantize(weight, wanted, seen)
        assert torch.equal(found.codes, alone.codes)
        assert torch.equal(found.scales, alone.scales)
        assert (found.zeros is None) == (alone.zeros is None) == wanted.symmetric
