"""A candidate that starts where it differs is read as one that starts at the first token."""

import numpy as np
import pytest

from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense
from paretune.compressors.prefix import Prefix, block_signatures
from paretune.spaces.architectures import read_model
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.formats import integer_format
from tests.compressors.conftest import make_windows
from tests.models import FAMILIES, MORE_FAMILIES, build_tiny

THREE = LayerChoice(weight=integer_format(3, None), method="rtn")


def last_linear(spec, block):
    return [x for x in spec.block_linears if x.block == block and not x.stacked][-1].name


def opened(family, folder):
    source = build_tiny(family, folder / "model")
    spec = read_model(source)
    model = load_dense(source, spec)
    windows = make_windows()
    return (
        spec,
        model,
        windows,
        Assembler(model, spec, Bank.open(folder / "bank", source, model, spec, "x", windows)),
    )


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_a_late_difference_costs_late_blocks_alone(family, tmp_path):
    spec, model, windows, assembler = opened(family, tmp_path)
    prefix = Prefix(model.get_submodule(spec.block_path))
    plain, quick = Teacher(model, windows), Teacher(model, windows, prefix=prefix)
    last = spec.blocks - 1
    for config in (
        DENSE_CONFIG,
        CompressionConfig(layers={last_linear(spec, last): THREE}),
        CompressionConfig(layers={last_linear(spec, 0): THREE}),
        CompressionConfig(layers={last_linear(spec, 0): THREE, last_linear(spec, last): THREE}),
        DENSE_CONFIG,
    ):
        candidate = assembler.apply(config)
        before = prefix.skipped
        found = quick.compare(candidate, signatures=block_signatures(spec, config))
        whole = plain.compare(candidate)
        np.testing.assert_array_equal(found.kl_tokens, whole.kl_tokens)
        np.testing.assert_array_equal(found.loss, whole.loss)
        late = last_linear(spec, last) in config.layers
        if block_signatures(spec, config) is not None:
            assert prefix.skipped - before == (last if late else 0)
        assert not any("forward" in vars(block) for block in model.get_submodule(spec.block_path))


def test_whatever_a_block_computes_with_tells_it_from_others(tmp_path):
    spec, *_ = opened("llama", tmp_path)
    first = block_signatures(spec, DENSE_CONFIG)
    assert first == block_signatures(spec, CompressionConfig())
    for other in (
        CompressionConfig(
            layers={spec.embedding.name: LayerChoice(weight=integer_format(8, None), method="rtn")}
        ),
        CompressionConfig(kv=KVFormat(num_bits=8)),
    ):
        assert all(one != two for one, two in zip(first, block_signatures(spec, other), strict=True))
    assert block_signatures(spec, CompressionConfig(pruned=PrunedShape(ffn_channels=32))) is None


@pytest.mark.parametrize("budget_bytes", [1, 200_000, 1 << 30])
def test_less_room_keeps_fewer_blocks(budget_bytes, tmp_path):
    spec, model, windows, assembler = opened("llama", tmp_path)
    prefix = Prefix(model.get_submodule(spec.block_path), budget_bytes)
    teacher = Teacher(model, windows, prefix=prefix)
    config = CompressionConfig(layers={last_linear(spec, spec.blocks - 1): THREE})
    for one in (DENSE_CONFIG, config):
        teacher.compare(assembler.apply(one), signatures=block_signatures(spec, one))
    held = sum(state.nbytes for kept in prefix._kept.values() for state in kept.states.values())
    assert held <= budget_bytes
    assert (prefix.skipped > 0) == (budget_bytes > 1)
