"""LLM.int8 while scoring: exact at both ends of the threshold, golden in between, and gone afterwards."""

from __future__ import annotations

import math

import pytest
import torch

from paretune.compressors.loading import load_dense
from paretune.compressors.mixed_decomposition import decompose, decomposed_product, outlier_columns
from paretune.compressors.rounding import fake_int8
from paretune.compressors.transforms.outlier_channels import OutlierChannels
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import ConfigurationError
from tests.compressors.conftest import make_windows
from tests.models import build_tiny


def load(family, folder):
    build_tiny(family, folder)
    spec = read_model(folder)
    return load_dense(folder, spec), spec


@torch.inference_mode()
def logits(model, windows=3):
    return model(input_ids=make_windows(windows, 24).ids, use_cache=False).logits


def round_both(model, spec):
    """Plain W8A8: rows of weights and tokens of inputs."""

    def round_input(_, inputs):
        return (fake_int8(inputs[0], torch.float32),)

    for linear in spec.block_linears:
        model.get_submodule(linear.name).register_forward_pre_hook(round_input)
        weight = model.get_parameter(linear.parameter).data
        rows = weight.t() if linear.transposed else weight
        rows.copy_(fake_int8(rows, torch.float32))


def test_golden_product():
    sequence = torch.tensor([[8.0, 127.0, 63.6], [1.0, -127.0, 0.4]]) / torch.tensor([1.0, 100.0, 100.0])
    weight = torch.tensor([[0.5, 12.7, -6.32]])
    outliers = outlier_columns(sequence, 6.0)
    assert outliers.tolist() == [True, False, False]
    # Tokens have scale 0.01 and codes (127, 64), (-127, 0); the row has scale 0.1 and codes (127, -63).
    expected = [8 * 0.5 + 0.001 * (127 * 127 - 64 * 63), 0.5 - 0.001 * 127 * 127]
    found = decomposed_product(sequence, weight, outliers)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_scales_come_from_the_remaining_columns():
    generator = torch.Generator().manual_seed(0)
    sequence, weight = torch.randn(5, 16, generator=generator), torch.randn(4, 16, generator=generator)
    sequence[2, 3], weight[:, 3] = 1000.0, 500.0
    exact = sequence @ weight.t()
    assert (decomposed_product(sequence, weight, outlier_columns(sequence, 6.0)) - exact).abs().max() < 0.2
    assert (decomposed_product(sequence, weight, torch.zeros(16, dtype=torch.bool)) - exact).abs().max() > 2


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "gpt_neox", "opt", "gpt2"])
def test_ends_of_the_threshold(family, tmp_path):
    model, spec = load(family, tmp_path / "model")
    dense = logits(model)
    with decompose(model, spec, 0.0) as kept:
        assert torch.allclose(logits(model), dense, rtol=1e-4, atol=1e-5)
    assert all(layer.columns == 3 * spec.linear(name).in_features for name, layer in kept.items())
    with decompose(model, spec, math.inf) as kept:
        plain = logits(model)
    assert not any(layer.columns for layer in kept.values())
    assert torch.equal(logits(model), dense)
    round_both(model, spec)
    assert torch.allclose(logits(model), plain, rtol=1e-4, atol=1e-4)


def test_outliers_are_kept_and_help(tmp_path):
    model, spec = load("llama", tmp_path / "model")
    dense = logits(model)
    OutlierChannels().apply(model, spec)
    with decompose(model, spec) as kept:
        mixed = logits(model)
    with decompose(model, spec, math.inf):
        plain = logits(model)
    assert (mixed - dense).norm() < 0.2 * (plain - dense).norm()
    layer = kept["model.layers.0.self_attn.q_proj"]
    assert (layer.sequences, layer.most >= 3) == (3, True)
    assert layer.most < spec.hidden_size / 4


@pytest.mark.parametrize("family", ["llama", "opt"])  # OPT flattens its sequences
def test_a_sequence_does_not_depend_on_the_others(family, tmp_path):
    model, spec = load(family, tmp_path / "model")
    OutlierChannels().apply(model, spec)
    with decompose(model, spec):
        assert torch.allclose(logits(model, 3)[:1], logits(model, 1), rtol=1e-4, atol=1e-5)


def test_the_model_is_put_back_after_an_error(tmp_path):
    model, spec = load("llama", tmp_path / "model")
    dense = logits(model)
    with pytest.raises(RuntimeError, match="stop"), decompose(model, spec):
        raise RuntimeError("stop")
    assert torch.equal(logits(model), dense)


def test_constant_and_missing_numbers():
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    none = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(decomposed_product(torch.zeros(2, 4), weight, none), torch.zeros(2, 3))
    constant = torch.full((2, 4), 3.0)
    assert torch.allclose(decomposed_product(constant, weight, none), constant @ weight.t(), atol=0.1)
    assert torch.equal(decomposed_product(constant, torch.zeros(3, 4), none), torch.zeros(2, 3))
    broken = torch.tensor([[math.nan, 1.0, 1.0, 1.0]])
    assert outlier_columns(broken, 6.0).tolist() == [True, False, False, False]
    assert decomposed_product(broken, weight, outlier_columns(broken, 6.0)).isnan().all()


@pytest.mark.parametrize("threshold", [-1.0, math.nan])
def test_a_threshold_is_a_magnitude(threshold, llama):
    with pytest.raises(ConfigurationError, match="magnitude"), decompose(llama.model, llama.spec, threshold):
        pass


def test_mixtures_are_refused(mixture):
    with pytest.raises(ConfigurationError, match="experts"), decompose(mixture.model, mixture.spec):
        pass
