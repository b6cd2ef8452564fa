"""ggml's own quantizers: the same bytes that llama.cpp reads, through the bank and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.quantizers.ggml_blocks import GgmlWeight
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import FormatError, ModelError
from paretune.spaces.formats import WeightFormat, ggml_format
from paretune.spaces.ggml_types import FLOAT_TYPES, GGML_TYPES
from paretune.spaces.named_formats import find_choice
from paretune.spaces.size import layer_bytes
from tests.compressors import contract

gguf = pytest.importorskip("gguf", reason="formats of llama.cpp need the extra 'llama'")
pytest.importorskip("libggml", reason="formats of llama.cpp need the extra 'llama'")


@pytest.mark.parametrize("name", GGML_TYPES)
def test_types_are_those_of_the_library(name):
    ours, theirs = GGML_TYPES[name], gguf.GGMLQuantizationType[name.upper()]
    assert ours.number == theirs.value
    assert (ours.block_weights, ours.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]


def test_float_types_are_those_of_the_library():
    assert {name: gguf.GGMLQuantizationType[name.upper()].value for name in FLOAT_TYPES} == FLOAT_TYPES


@pytest.mark.parametrize("name", GGML_TYPES)
def test_what_blocks_stand_for_is_what_a_reader_of_the_file_computes(name):
    weight = contract.trained_like(rows=6, columns=512)
    found = find_quantizer("ggml-importance").quantize(weight, ggml_format(name), contract.statistics(512))
    assert isinstance(found, GgmlWeight)
    assert found.blocks.shape == (6, ggml_format(name).row_bytes(512))
    read = gguf.quants.dequantize(found.blocks.numpy(), gguf.GGMLQuantizationType[name.upper()])
    assert np.array_equal(found.dequantize().numpy(), read)
    error = float((found.dequantize() - weight).square().sum() / weight.square().sum())
    assert error < 0.9 * 4.0 ** -GGML_TYPES[name].num_bits * 4
    part = found.rows(2, 5)
    assert torch.equal(part.dequantize(), found.dequantize()[2:5])


def test_importance_lowers_the_weighted_error():
    weight, seen = contract.trained_like(rows=32, columns=512), contract.statistics(512)
    errors = {}
    for method in ("ggml", "ggml-importance"):
        found = find_quantizer(method).quantize(weight, ggml_format("q3_k"), seen).dequantize()
        errors[method] = float(((found - weight).square() * seen.second_moment).sum())
    assert errors["ggml-importance"] < 0.97 * errors["ggml"]


def test_a_silent_input_changes_nothing_for_the_worse():
    weight = contract.trained_like(rows=8, columns=256)
    dead = LayerStatistics(torch.zeros(256))
    found = find_quantizer("ggml-importance").quantize(weight, ggml_format("q4_k"), dead).dequantize()
    assert torch.isfinite(found).all()
    assert float((found - weight).square().mean()) < 0.02 * float(weight.square().mean())


@pytest.mark.parametrize("name", GGML_TYPES)
def test_zeros_and_constants_stay_finite(name):
    weight = torch.zeros(4, 256)
    weight[1] = 0.5
    weight[2, :10] = -1e-30
    found = find_quantizer("ggml-importance").quantize(weight, ggml_format(name)).dequantize()
    assert torch.isfinite(found).all()
    assert float(found[0].abs().max()) == 0.0


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(FormatError, match="blocks of 256 weights"):
        find_quantizer("ggml").quantize(torch.ones(2, 384), ggml_format("q4_k"))
    with pytest.raises(FormatError, match="importance"):
        find_quantizer("ggml").quantize(torch.ones(2, 256), ggml_format("iq2_xxs"))
    with pytest.raises(FormatError, match="codes of type int"):
        find_quantizer("gptq").quantize(torch.ones(2, 256), ggml_format("q4_k"))
    with pytest.raises(ModelError, match="NaN"):
        find_quantizer("ggml").quantize(torch.full((2, 256), torch.nan), ggml_format("q4_k"))
    with pytest.raises(FormatError, match="q4_k"):
        ggml_format("q4_z")
    with pytest.raises(FormatError, match="the type fixes them"):
        WeightFormat(num_bits=5, number_type="ggml", ggml="q4_k")
    with pytest.raises(FormatError, match="only they"):
        WeightFormat(num_bits=4, number_type="int", ggml="q4_k")


def test_names_make_choices():
    assert find_choice("q4_k").name == "q4_k/ggml"
    assert find_choice("q4_k/ggml-importance").method == "ggml-importance"
    assert find_choice("iq2_xxs").method == "ggml-importance"
    again = LayerChoice.from_json(find_choice("q6_k").to_json())
    assert again == find_choice("q6_k")


@pytest.mark.parametrize(
    "pruned", [PrunedShape(), PrunedShape(ffn_channels=128, kv_heads=1)], ids=lambda s: s.name
)
def test_the_bank_keeps_blocks_as_they_are(llama, pruned):
    bench = llama
    linear = next(x for x in bench.spec.linears if x.role == "down")
    choice = find_choice("q8_0")
    found = bench.bank.quantized(linear.name, choice, pruned)
    assert isinstance(found, GgmlWeight)
    assert torch.equal(found.dequantize(), bench.bank.tensor(linear.name, choice, pruned))
    config = CompressionConfig(layers={linear.name: choice}, pruned=pruned)
    assert layer_bytes(bench.spec, linear, config).total == found.blocks.numel()
