"""What a bank gathers is of the dense model, whatever candidate stands in its place."""

from __future__ import annotations

import pytest
import torch

from paretune.compressors.observations import is_dense
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.formats import integer_format
from paretune.spaces.named_formats import find_choice
from tests.compressors.conftest import make_bench

GPTQ = LayerChoice(weight=integer_format(4, 32), method="gptq")


def everywhere(bench, choice, **options):
    return CompressionConfig(layers={x.name: choice for x in bench.spec.block_linears}, **options)


def test_covariances_are_of_the_dense_model(tmp_path):
    clean = make_bench("llama", tmp_path / "clean")
    clean.bank.observations.correlate()
    bench = make_bench("llama", tmp_path / "candidate")
    bench.assembler.apply(everywhere(bench, LayerChoice(weight=integer_format(2, 32), method="rtn")))
    bench.bank.build_for(everywhere(bench, GPTQ))
    for linear in bench.spec.block_linears:
        assert torch.equal(
            bench.bank.observations.covariance(linear), clean.bank.observations.covariance(linear)
        )


def test_gradients_are_of_the_dense_model(tmp_path):
    choice = LayerChoice(sparsity=Sparsity(fraction=0.5, criterion="taylor"))
    clean = make_bench("llama", tmp_path / "clean")
    clean.bank.build_for(everywhere(clean, choice))
    bench = make_bench("llama", tmp_path / "candidate")
    bench.assembler.apply(CompressionConfig(pruned=PrunedShape(ffn_channels=128)))
    bench.bank.build_for(everywhere(bench, choice))
    for linear in bench.spec.block_linears:
        assert torch.equal(bench.bank.tensor(linear.name, choice), clean.bank.tensor(linear.name, choice))


@pytest.mark.parametrize("role", ["expert_gate_up", "expert_down"])
def test_rounded_inputs_of_experts_are_no_dense_model(mixture, role):
    source = mixture.bank._source
    assert is_dense(mixture.model, source, mixture.spec)
    layers = [x.name for x in mixture.spec.of_role(role)]
    mixture.assembler.apply(CompressionConfig(layers=dict.fromkeys(layers, find_choice("w8a8-dynamic"))))
    for name in layers:  # dense weights again, so that the inputs alone tell
        mixture.model.get_parameter(name).data = source.loaded(name)
    assert not is_dense(mixture.model, source, mixture.spec)
    mixture.assembler.apply(CompressionConfig())
    assert is_dense(mixture.model, source, mixture.spec)


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_covariances_that_were_interrupted_go_on_where_they_were(tmp_path, family):
    class KilledError(Exception):
        pass

    def killed(what, done, total):
        if done == 5:
            raise KilledError

    clean = make_bench(family, tmp_path / "clean")
    clean.bank.observations.correlate()
    bench = make_bench(family, tmp_path / "killed")
    with pytest.raises(KilledError):
        bench.bank.observations.correlate(killed)
    folder = bench.bank.folder / "entries" / "covariance"
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    assert len(before) == 5
    seen = []
    bench.bank.observations.correlate(lambda what, done, total: seen.append((done, total)))
    assert seen[0][0] == 5
    assert seen[-1][0] + 1 == seen[-1][1]
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    for linear in bench.spec.block_linears:
        assert torch.equal(
            bench.bank.observations.covariance(linear), clean.bank.observations.covariance(linear)
        )
