"""A wrong export is noticed in every engine, and the block where it parts from its candidate is named."""

from __future__ import annotations

import shutil

import pytest
import torch

from paretune.compressors.loading import load_checkpoint
from paretune.engines.engine import ExportCard
from paretune.engines.first_difference import OUTSIDE, first_difference
from paretune.engines.llama_engine import LlamaCpp
from paretune.engines.predictions import Predictions
from paretune.engines.transformers_engine import Transformers
from paretune.engines.verification import LEAST_TOLERANCE, verify_export
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import VerificationError
from paretune.spaces.named_formats import find_choice
from paretune.spaces.size import weight_bytes
from tests.engines.conftest import assembled_logits, choice, running, uniform


class Careless(Transformers):
    """Writes one block narrower than it was told; loads in this process, which is faster."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def export(self, weights, config, folder, card):
        layers = {
            layer: choice(2) if weights.spec.linear(layer).block == self.block else found
            for layer, found in config.layers.items()
        }
        return super().export(weights, config.replaced(layers=layers), folder, card)

    def predictions(self, folder, ids):
        with torch.inference_mode():
            return Predictions.of_logits(load_checkpoint(folder, torch.float32)(input_ids=ids).logits)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_block_is_named(bench, block):
    one = bench("llama")
    config = uniform(one.spec, choice(8))
    found = first_difference(Careless(block), one.assembler, config, one.folder, one.ids, 1e-5)
    assert found == f"block {block}"


def test_an_export_may_be_written_by_another_engine_than_loads_it(bench):
    one = bench("llama")
    config = uniform(one.spec, choice(8))
    found = first_difference(Careless(None), one.assembler, config, one.folder, one.ids, 1e-5, Careless(1))
    assert found == "block 1"


def test_blocks_are_counted_as_in_the_dense_model(bench):
    one = bench("llama")
    config = uniform(one.spec, choice(8), PrunedShape(blocks=(0, 2)))
    assert first_difference(Careless(2), one.assembler, config, one.folder, one.ids, 1e-5) == "block 2"


def test_what_lies_outside_the_blocks_is_told_apart(bench):
    one = bench("llama")
    config = uniform(one.spec, choice(8), layers={one.spec.head.name: choice(8)})
    assert one.spec.linear(one.spec.head.name).block is None
    found = first_difference(Careless(None), one.assembler, config, one.folder, one.ids, 1e-5)
    assert found == OUTSIDE


def test_a_fresh_export_that_agrees_has_no_such_block(bench):
    one = bench("llama")
    config = uniform(one.spec, choice(4))
    assert first_difference(Careless(None), one.assembler, config, one.folder, one.ids, 1e-5) is None


def mixed(spec, narrow):
    """Of the same bytes whichever block is the narrow one."""
    few, more = find_choice("q4_0"), find_choice("q5_0")
    return CompressionConfig(layers={x.name: few if x.block == narrow else more for x in spec.block_linears})


@pytest.mark.engine
def test_llama_cpp_tells_candidates_of_the_same_bytes_apart(bench, tmp_path):
    engine = running("llama.cpp")
    one = bench("llama")
    config, other = mixed(one.spec, 0), mixed(one.spec, 2)
    assert weight_bytes(one.spec, config) == weight_bytes(one.spec, other)
    ours, theirs = (torch.log_softmax(assembled_logits(one, c), dim=-1) for c in (config, other))
    apart = float((ours.exp() * (ours - theirs)).sum(dim=-1).mean())
    folder = engine.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder, "mixed"))
    tolerance = min(LEAST_TOLERANCE, apart / 10)
    assert verify_export(engine, one.assembler, config, folder, one.ids, tolerance=tolerance).kl < tolerance
    with pytest.raises(VerificationError, match="differs from the searched candidate"):
        verify_export(engine, one.assembler, other, folder, one.ids, tolerance=tolerance)


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "extra"])
def test_a_damaged_gguf_is_caught_before_the_engine_sees_it(bench, tmp_path, damage, monkeypatch):
    engine = running("llama.cpp")
    one = bench("llama")
    config = mixed(one.spec, 0)
    folder = engine.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder, "mixed"))
    file = folder / "model.gguf"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "swap":
        other = engine.export(one.assembler, mixed(one.spec, 2), tmp_path / "other", ExportCard(one.folder))
        shutil.copyfile(other / "model.gguf", file)
    else:
        (folder / "more.gguf").write_bytes(content)
    monkeypatch.setattr(LlamaCpp, "run", lambda *_: pytest.fail("the engine was started"))
    with pytest.raises(VerificationError):
        verify_export(engine, one.assembler, config, folder, one.ids)
