"""The arithmetic that candidates are read in: what it adds is measured, and nothing but parameters is rounded."""

import pytest
import torch

from paretune.compressors import arithmetic
from paretune.compressors.arithmetic import Arithmetic, load_for_scoring
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, narrow
from paretune.spaces.architectures import read_model
from tests.compressors.conftest import make_windows
from tests.models import build_tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = build_tiny("llama", tmp_path_factory.mktemp("arithmetic") / "model", dtype="bfloat16")
    return folder, read_model(folder)


def test_halves_have_a_floor_and_float32_has_none(llama):
    folder, spec = llama
    found = {
        name: load_for_scoring(folder, spec, make_windows(), "cpu", name, 1e-5)[1]
        for name in ("auto", "float32", "float16", "bfloat16")
    }
    assert found["auto"] == found["float32"] == Arithmetic("float32", 0.0)
    # Three bits of mantissa less, squared.
    assert 10 < found["bfloat16"].kl_floor / found["float16"].kl_floor < 300
    assert found["float16"].dtype == torch.float16
    assert Arithmetic("tf32", 0.0).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_frequencies_of_rotary_embeddings_are_never_rounded(llama, dtype):
    folder, spec = llama
    exact = dict(load_dense(folder, spec).named_buffers())
    model = load_dense(folder, spec, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, exact[name])


def test_what_a_family_keeps_in_float32_stays_so(llama):
    folder, spec = llama
    model = load_dense(folder, spec)
    model._keep_in_fp32_modules = ["input_layernorm"]
    narrow(model, torch.float16)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds["model.layers.0.input_layernorm.weight"] == torch.float32
    assert kinds["model.norm.weight"] == torch.float16


@pytest.mark.parametrize(("floors", "chosen"), [([1e-7], "tf32"), ([1e-3], "float32")])
def test_a_gpu_with_room_takes_the_cheapest_below_the_floor(llama, monkeypatch, floors, chosen):
    """The ladder alone: a CPU plays the device."""
    monkeypatch.setattr(arithmetic, "_on_gpu", lambda device: True)
    monkeypatch.setattr(arithmetic, "_fits", lambda spec, device: True)
    left = list(floors)
    monkeypatch.setattr(arithmetic, "_floor", lambda reference, model, tf32: left.pop(0))
    folder, spec = llama
    model, found = load_for_scoring(folder, spec, make_windows(), "cpu", "auto", 1e-5)
    assert (found.name, next(model.parameters()).dtype) == (chosen, torch.float32)
    assert left == []


def test_numbers_that_overflow_have_no_floor(llama):
    folder, spec = llama
    model = load_dense(folder, spec)
    with torch.no_grad():
        # In float16 a sum of squares ends, in float32 it does not.
        for name, parameter in model.named_parameters():
            if "down_proj" in name or "up_proj" in name:
                parameter.mul_(3e3)
    reference = Teacher(model, make_windows())
    assert arithmetic._floor(reference, model, tf32=False) < 1e-12
    narrow(model, torch.float16)
    assert arithmetic._floor(reference, model, tf32=False) == float("inf")
