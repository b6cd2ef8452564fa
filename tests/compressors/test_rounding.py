"""Rounded caches against their definition; switched off they change nothing."""

import pytest
import torch

from paretune.compressors.rounding import fake_int8
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from tests.compressors.conftest import make_bench

IDS = torch.arange(60).view(2, 30)


def test_rounding_by_token():
    values = torch.tensor([[0.0, 0.0], [127.0, -3.4], [-1.0, 0.25]])
    found = fake_int8(values, torch.float32)
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1].tolist() == [127.0, -3.0]
    assert found[2, 1] == pytest.approx(32 / 127)
    assert torch.allclose(fake_int8(found, torch.float32), found)


def test_scales_are_rounded_before_codes_are_chosen():
    values = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    found = fake_int8(values, torch.bfloat16)
    scale = (values.abs().amax(dim=-1, keepdim=True) / 127).to(torch.bfloat16).float()
    codes = found / scale
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert ((found - values).abs() <= scale * 0.5 + 1.01 * (values.abs() - 127 * scale).relu()).all()


def test_the_cache_is_rounded_in_the_attention_and_nowhere_else(llama):
    dense = llama.model(IDS).logits.clone()
    module = llama.model.model.layers[0].self_attn
    seen = {}

    def watch(name):
        return lambda _, __, output: seen.setdefault(name, []).append(output.clone())

    handles = [getattr(module, name).register_forward_hook(watch(name)) for name in ("k_proj", "v_proj")]
    rounded = llama.assembler.apply(CompressionConfig(kv=KVFormat(num_bits=8)))(IDS).logits.clone()
    llama.assembler.apply(DENSE_CONFIG)(IDS)
    for handle in handles:
        handle.remove()
    assert torch.equal(*seen["k_proj"])  # the first block's projections see the same input
    assert not torch.equal(rounded, dense)
    assert (rounded - dense).abs().max() < 0.05 * dense.abs().max()
    assert torch.equal(llama.model(IDS).logits, dense)


def test_the_cache_against_a_model_that_rounds_its_values(llama):
    """One block, one token: attention returns the value itself, so rounding shows in the output's input."""
    ids = IDS[:, :1]
    module = llama.model.model.layers[0].self_attn
    seen = []
    handle = module.o_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    llama.assembler.apply(DENSE_CONFIG)(ids)
    llama.assembler.apply(CompressionConfig(kv=KVFormat(num_bits=8)))(ids)
    handle.remove()
    plain, rounded = (values.view(2, 1, 4, 32) for values in seen)
    torch.testing.assert_close(rounded, fake_int8(plain, torch.bfloat16))


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "gpt2", "mixtral"])
def test_every_family_takes_a_rounded_cache(family, tmp_path):
    changes = {"attn_logit_softcapping": 30.0} if family == "gemma2" else {}
    bench = make_bench(family, tmp_path, **changes)
    dense = bench.model(IDS).logits.clone()
    rounded = bench.assembler.apply(CompressionConfig(kv=KVFormat(num_bits=8)))(IDS).logits.clone()
    assert (rounded - dense).abs().max() > 0
    assert torch.equal(bench.assembler.apply(DENSE_CONFIG)(IDS).logits, dense)


def test_a_generation_with_a_cache_rounds_the_same(llama):
    model = llama.assembler.apply(CompressionConfig(kv=KVFormat(num_bits=8)))
    whole = model(IDS).logits
    state = model(IDS[:, :20], use_cache=True).past_key_values
    rest = model(IDS[:, 20:], past_key_values=state, use_cache=True).logits
    torch.testing.assert_close(rest, whole[:, 20:], atol=2e-4, rtol=1e-3)
