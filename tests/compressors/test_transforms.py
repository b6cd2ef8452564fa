"""Transforms leave what a model computes as it was, or refuse."""

from __future__ import annotations

import pytest
import torch

from compressors.loading import load_dense
from compressors.transforms import TRANSFORMS, find_transform
from compressors.transforms.outlier_channels import OutlierChannels
from spaces.architectures import read_model
from spaces.errors import ConfigurationError, ParetuneError, UnknownNameError
from tests.compressors.conftest import make_windows
from tests.models import FAMILIES, build_tiny

REFUSED = {
    "outlier-channels": set(),
    "smoothquant": set(),
    "hadamard": {"gemma2", "gemma3", "gpt2", "gpt_neox", "opt"},
}


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
@pytest.mark.parametrize("name", TRANSFORMS)
def test_contract(name, family, loaded):
    model, spec, _ = loaded(family)
    transform, windows = find_transform(name), make_windows(2, 32)
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
    with pytest.raises(UnknownNameError, match="outlier-channels"):
        find_transform("outlier-channel")


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
