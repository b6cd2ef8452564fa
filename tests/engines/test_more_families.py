"""Families that are read and not cut: what is searched of them is what transformers makes of the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.compressors.expert_names import UNFOLDED
from paretune.compressors.loading import load_checkpoint
from paretune.engines import find_engine
from paretune.engines.engine import ExportCard
from paretune.spaces.choice import UNTOUCHED
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.engines.conftest import Bench, build, choice, divergence
from tests.models import MORE_FAMILIES

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", params=MORE_FAMILIES)
def one(request, tmp_path_factory) -> Bench:
    return build(tmp_path_factory.mktemp(request.param), request.param, dtype="float32")


def legal(one: Bench) -> CompressionConfig:
    """4 bits wherever the engine takes them."""
    engine, wanted = find_engine("transformers"), choice(4)
    legality = engine.legality("x86-avx2")
    groups = [g for g in legality.groups(one.spec) if g.block is not None]
    taken = [x for g in groups if legality.choice(one.spec, g, wanted, DENSE_CONFIG.pruned) for x in g.layers]
    return CompressionConfig(layers=dict.fromkeys(taken, wanted))


def exported(one: Bench, config: CompressionConfig, folder: Path) -> float:
    """KL of the export, loaded again, to the candidate."""
    searched = one.assembler.apply(config)(one.ids).logits.clone()
    path = find_engine("transformers").export(one.assembler, config, folder, ExportCard(one.folder, "one"))
    with torch.no_grad():
        found = load_checkpoint(path)(one.ids).logits
    return divergence(searched, found)


def test_the_export_is_the_candidate(one, tmp_path):
    config = legal(one)
    quantized = sum(one.spec.linear(name).weights for name in config.layers)
    inside = sum(linear.weights for linear in one.spec.block_linears)
    # Experts that lie as (in, out) have no packed form: of those families attention and shared experts are quantized.
    by_column = one.spec.family not in UNFOLDED and any(x.transposed for x in one.spec.block_linears)
    assert quantized == inside or by_column
    assert quantized > 0
    assert abs(exported(one, config, tmp_path / "quantized")) < 1e-6
    dense = one.assembler.apply(DENSE_CONFIG)(one.ids).logits.clone()
    assert divergence(dense, one.assembler.apply(config)(one.ids).logits) > 1e-4


def test_experts_that_are_taken_apart_differ_from_block_to_block(tmp_path):
    """Llama 4's are linears of their own beside quantized weights: other widths, zero points, and none at all."""
    one = build(tmp_path, "llama4", dtype="float32")
    experts = [linear for linear in one.spec.block_linears if linear.role.startswith("expert")]
    blocks = sorted({linear.block for linear in experts})
    assert len(blocks) == 2
    for wanted in (choice(4), choice(8, symmetric=False)):
        layers = {linear.name: wanted for linear in experts if linear.block == blocks[0]}
        attention = {linear.name: choice(3) for linear in one.spec.of_role("o")}
        mixed = CompressionConfig(layers={**layers, **attention})
        assert abs(exported(one, mixed, tmp_path / wanted.weight.name)) < 1e-6
    both = {linear.name: choice(4 if linear.block == blocks[0] else 6) for linear in experts}
    assert abs(exported(one, CompressionConfig(layers=both), tmp_path / "both")) < 1e-6


def test_the_dense_export_is_the_model(one, tmp_path):
    assert abs(exported(one, DENSE_CONFIG, tmp_path / "dense")) < 1e-9


def test_a_space_of_it_decodes(one):
    space = SearchSpace(
        one.spec, find_engine("transformers").legality("x86-avx2"), Restrictions(group_size=32)
    )
    assert all(
        UNTOUCHED in parameter.choices for parameter in space.parameters if parameter.group is not None
    )
    point = space.random(np.random.default_rng(0))
    assert space.encode(space.decode(point)) == point
