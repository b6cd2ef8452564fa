"""Transforms leave what a model computes as it was, or refuse."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.outlier_channels import OutlierChannels
from paretune.compressors.loading import load_dense, load_tokenizer
from paretune.compressors.rounding import fake_int8
from paretune.compressors.transforms import TRANSFORMS, find_transform
from paretune.compressors.transforms.checkpoint import write_model
from paretune.compressors.transforms.hadamard import is_exact, randomized_hadamard
from paretune.compressors.transforms.rotation import Rotation
from paretune.compressors.transforms.smoothing import Smoothing, smoothing_factors
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import ConfigurationError, ModelError, ParetuneError, TextError, UnknownNameError
from tests.compressors.conftest import make_windows
from tests.models import FAMILIES, build_tiny

REFUSED = {
    "outlier-channels": set(),
    "smoothquant": set(),
    "hadamard": {"gemma2", "gemma3", "gpt2", "gpt_neox", "opt"},
}


TRANSFORMED = {"outlier-channels": OutlierChannels(), **{name: find_transform(name) for name in TRANSFORMS}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A fresh tiny model of a family, with its spec and folder."""
    root = tmp_path_factory.mktemp("transforms")

    def load(family, **changes):
        folder = root / "-".join([family, *(f"{k}={v}" for k, v in changes.items())])
        if not folder.exists():
            build_tiny(family, folder, **changes)
        spec = read_model(folder)
        return load_dense(folder, spec), spec, folder

    return load


@torch.inference_mode()
def logits(model):
    return model(input_ids=make_windows(2, 24, seed=3).ids, use_cache=False).logits


def check_equal(before, after, relative=1e-4):
    assert (after - before).abs().max() <= relative * before.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TRANSFORMED)
def test_contract(name, family, loaded):
    model, spec, _ = loaded(family)
    transform, windows = TRANSFORMED[name], make_windows(2, 32)
    before = logits(model)
    if family in REFUSED[name]:
        with pytest.raises(ParetuneError, match=spec.model_type):
            transform.apply(model, spec, windows)
        assert torch.equal(logits(model), before)
        return
    weights = {key: value.clone() for key, value in model.named_parameters()}
    transform.apply(model, spec, windows)
    assert any(not torch.equal(value, weights[key]) for key, value in model.named_parameters())
    check_equal(before, logits(model))


def test_an_unknown_transform_is_named():
    with pytest.raises(UnknownNameError, match="smoothquant"):
        find_transform("smoothquand")


def test_powers_of_two_leave_the_same_bits(loaded):
    model, spec, _ = loaded("llama")
    before, gain = logits(model), model.model.layers[1].input_layernorm.weight.clone()
    OutlierChannels(2, 64.0, seed=5).apply(model, spec)
    assert torch.equal(logits(model), before)
    ratio = model.model.layers[1].input_layernorm.weight / gain
    chosen = OutlierChannels(2, 64.0, seed=5).chosen(spec.hidden_size)
    assert sorted(chosen.tolist()) == torch.nonzero(ratio == 64.0).flatten().tolist()
    assert (ratio == 1.0).sum() == spec.hidden_size - 2


@pytest.mark.parametrize(("channels", "factor"), [(0, 64.0), (4, 64.0), (1, 8.0), (1, float("nan"))])
def test_outliers_that_no_model_shows_are_refused(channels, factor):
    with pytest.raises(ConfigurationError, match="30 to 100"):
        OutlierChannels(channels, factor)


def test_factors_are_those_of_the_paper():
    peak, weight_peak = torch.tensor([16.0, 4.0, 0.0, 2.0]), torch.tensor([1.0, 0.25, 1.0, 0.0])
    assert smoothing_factors(peak, weight_peak, 0.5).tolist() == [4.0, 4.0, 1.0, 1.0]
    assert smoothing_factors(peak, weight_peak, 1.0).tolist() == [16.0, 4.0, 1.0, 1.0]
    assert smoothing_factors(peak, weight_peak, 0.0).tolist() == [1.0, 4.0, 1.0, 1.0]


def w8a8_error(model, spec, dense):
    """Relative squared error of logits under plain W8A8."""
    handles = []
    for linear in spec.block_linears:
        weight = model.get_parameter(linear.parameter).data
        weight.copy_(fake_int8(weight, torch.float32))
        module = model.get_submodule(linear.name)
        handles.append(module.register_forward_pre_hook(lambda _, x: (fake_int8(x[0], torch.float32),)))
    found = logits(model)
    for handle in handles:
        handle.remove()
    return float((found - dense).square().sum() / dense.square().sum())


@pytest.mark.parametrize("name", ["smoothquant", "hadamard"])
def test_outliers_no_longer_break_w8a8(name, loaded):
    model, spec, _ = loaded("llama")
    dense, windows = logits(model), make_windows(2, 32)
    OutlierChannels().apply(model, spec)
    find_transform(name).apply(model, spec, windows)
    helped = w8a8_error(model, spec, dense)
    model, spec, _ = loaded("llama")
    OutlierChannels().apply(model, spec)
    assert helped < 0.05 * w8a8_error(model, spec, dense)


def test_smoothing_is_deterministic_and_leaves_what_it_cannot_help(loaded):
    windows = make_windows(2, 32)
    runs = []
    for _ in range(2):
        model, spec, _ = loaded("llama")
        runs.append((Smoothing().apply(model, spec, windows).strengths, logits(model)))
    assert repr(runs[0][0]) == repr(runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][0]) == 4 * spec.blocks
    model, spec, _ = loaded("llama")
    model.model.layers[0].mlp.up_proj.weight.data.zero_()  # down's input is zero: nothing can be better
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    before = logits(model)
    found = Smoothing().apply(model, spec, windows).strengths
    assert math.isnan(found["model.layers.0.mlp.down_proj"])
    assert math.isnan(found["model.layers.1.self_attn.o_proj"])
    check_equal(before, logits(model))


def test_dead_and_constant_channels(loaded):
    model, spec, _ = loaded("llama")
    OutlierChannels().apply(model, spec)
    layer = model.model.layers[1]
    layer.input_layernorm.weight.data[5] = 0.0
    layer.post_attention_layernorm.weight.data.zero_()
    layer.self_attn.v_proj.weight.data[3] = 0.0
    for name in ("smoothquant", "hadamard"):
        before = logits(model)
        find_transform(name).apply(model, spec, make_windows(2, 32))
        check_equal(before, logits(model))


def test_values_of_a_bias_move_along(loaded):
    model, spec, _ = loaded("llama", attention_bias=True, mlp_bias=True)
    before = logits(model)
    for transform in TRANSFORMED.values():
        transform.apply(model, spec, make_windows(2, 32))
    check_equal(before, logits(model))


def test_homogeneous_activations_alone_are_passed(loaded):
    model, spec, _ = loaded("opt")
    assert not Smoothing().apply(model, spec, make_windows(2, 32)).left
    model, spec, _ = loaded("gpt2")
    assert "gelu" in Smoothing().apply(model, spec, make_windows(2, 32)).left["transformer.h.0"]


def test_what_cannot_be_done_is_refused(loaded):
    model, spec, _ = loaded("opt")
    model.config.do_layer_norm_before = False
    with pytest.raises(ModelError, match="residual"):
        OutlierChannels().apply(model, spec)
    with pytest.raises(ModelError, match="not known"):
        Smoothing().apply(model, spec.model_copy(update={"family": "other"}), make_windows(2, 32))
    model, spec, _ = loaded("llama", tie_word_embeddings=True)
    with pytest.raises(ModelError, match="last norm"):
        Rotation(untie=False).apply(model, spec)
    with pytest.raises(TextError, match="calibration"):
        Smoothing().apply(model, spec)
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        Smoothing(strengths=(1.5,))
    model.model.layers[2].mlp.up_proj.weight.data[0, 0] = math.nan
    for transform in TRANSFORMED.values():
        with pytest.raises(ModelError, match=r"up_proj\.weight is not finite"):
            transform.apply(model, spec, make_windows(2, 32))
    model, spec, _ = loaded("llama")
    model.model.layers[0].input_layernorm.weight.data.fill_(3e38)
    with pytest.raises(ModelError, match=r"input of .* is not finite"):
        Smoothing().apply(model, spec, make_windows(2, 32))


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 150), seed=st.integers(0, 9))
def test_rotations_are_orthogonal(size, seed):
    matrix = randomized_hadamard(size, seed)
    assert torch.allclose(matrix @ matrix.t(), torch.eye(size, dtype=torch.float64), atol=1e-10)
    if is_exact(size):
        assert torch.allclose(matrix.abs(), torch.full_like(matrix, size**-0.5))


def test_sizes_of_models_have_hadamard_matrices():
    # 7 and 9 times a power of two come from Paley's second construction, 3, 5 and 11 from his first.
    assert all(is_exact(n) for n in (64, 96, 576, 768, 896, 1536, 2048, 2304, 2560, 2816, 3584, 5120))
    assert not is_exact(7)
    assert not is_exact(2 * 9)
    assert not torch.equal(randomized_hadamard(64, 0), randomized_hadamard(64, 1))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_rotated_checkpoint_is_a_model_like_any_other(family, loaded, tmp_path):
    model, spec, source = loaded(family, tie_word_embeddings=True)
    before = logits(model)
    done = find_transform("hadamard").apply(model, spec)
    folder = write_model(model, done.spec, source, tmp_path / "deep" / "rotated")
    spec = read_model(folder)
    assert not spec.tied
    assert spec.parameters == done.spec.parameters
    assert spec.dtype == "float32"
    check_equal(before, logits(load_dense(folder, spec)))
    assert load_tokenizer(folder).get_vocab() == load_tokenizer(source).get_vocab()
    assert [path.name for path in folder.parent.iterdir()] == ["rotated"]
    with pytest.raises(ModelError, match="not empty"):
        write_model(model, done.spec, source, folder)


def test_a_rescaled_checkpoint_keeps_configuration_dtype_and_bits(loaded, tmp_path):
    model, spec, source = loaded("llama", tie_word_embeddings=True, dtype="bfloat16")
    before = logits(model)
    done = OutlierChannels().apply(model, spec)
    folder = write_model(model, done.spec, source, tmp_path / "heavy")
    config = json.loads((source / "config.json").read_text())
    assert json.loads((folder / "config.json").read_text()) == config
    spec = read_model(folder)
    assert (spec.tied, spec.dtype) == (True, "bfloat16")
    stored, before_bytes = (
        sum(file.stat().st_size for file in x.glob("*.safetensors")) for x in (folder, source)
    )
    assert stored <= before_bytes  # a tied head is not stored twice
    assert torch.equal(logits(load_dense(folder, spec)), before)
    wide = read_model(write_model(model, done.spec, source, tmp_path / "wide", torch.float32))
    assert wide.dtype == "float32"
    with pytest.raises(ModelError, match="cannot be read"):
        write_model(model, done.spec, tmp_path / "nowhere", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
