"""First-order Taylor scores of single weights."""

from __future__ import annotations

import pytest
import torch

from paretune import demo
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.gradients import gather_gradients
from paretune.compressors.loading import load_dense, load_tokenizer
from paretune.compressors.pruned_sizes import kept_columns, kept_rows
from paretune.compressors.pruners import find_pruner
from paretune.compressors.statistics import LayerStatistics
from paretune.compressors.windows import read_windows
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import FormatError, ModelError
from tests.compressors.conftest import make_bench

HALF = Sparsity(fraction=0.5, criterion="taylor")


def sparse(spec, sparsity, pruned=None):
    choice = LayerChoice(sparsity=sparsity)
    layers = dict.fromkeys((x.name for x in spec.block_linears), choice)
    return CompressionConfig(layers=layers, **({} if pruned is None else {"pruned": pruned}))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt2"])
def test_gradients_are_those_of_the_loss(family, tmp_path):
    one = make_bench(family, tmp_path)
    windows = one.windows.first(2)
    found = dict(gather_gradients(one.model, one.spec, windows))
    assert set(found) == {x.name for x in one.spec.block_linears}
    assert not any(p.requires_grad for p in one.model.parameters())
    linear = one.spec.block_linears[-1]
    weight = one.model.get_parameter(linear.parameter)
    weight.requires_grad_(True)
    sizes = []
    for ids in windows.ids:
        logits = one.model(input_ids=ids[None]).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[1:])
        sizes.append(torch.autograd.grad(loss, weight)[0].abs())
    weight.requires_grad_(False)
    expected = torch.stack(sizes).mean(dim=0)
    expected = expected.t() if linear.transposed else expected
    torch.testing.assert_close(found[linear.name].float(), expected, rtol=1e-2, atol=1e-9)


def test_what_the_loss_does_not_feel_goes_first():
    weight = torch.tensor([[5.0, 0.1, 1.0, 1.0]])
    seen = LayerStatistics(torch.ones(4), gradient=torch.tensor([[0.0, 9.0, 1.0, 0.5]]))
    mask = find_pruner("taylor").mask(weight, HALF, seen)
    assert mask.tolist() == [[False, True, True, False]]
    with pytest.raises(FormatError, match="gradients"):
        find_pruner("taylor").mask(weight, HALF, LayerStatistics(torch.ones(4)))


def test_the_bank_gathers_gradients_when_they_are_asked_for(llama):
    config = sparse(llama.spec, HALF)
    assert not list((llama.bank.folder / "entries").glob("gradient/*"))
    llama.bank.build_for(config)
    assert len(list((llama.bank.folder / "entries" / "gradient").glob("*"))) == len(llama.spec.block_linears)
    layer = llama.spec.block_linears[0].name
    assert float((llama.bank.tensor(layer, config.choice(layer)) == 0).float().mean()) == pytest.approx(0.5)


def test_a_trained_model_loses_little(tmp_path):
    spec = read_model(demo.MODEL)
    model, tokenizer = load_dense(demo.MODEL, spec), load_tokenizer(demo.MODEL)
    windows = read_windows(tokenizer, demo.TEXTS / "calibration.txt", window_tokens=128, count=6)
    bank = Bank.open(tmp_path / "bank", demo.MODEL, model, spec, "hash", windows)
    teacher, config = Teacher(model, windows), sparse(spec, HALF)
    bank.build_for(config)
    loss = float(teacher.compare(Assembler(model, spec, bank, 2**30).apply(config)).kl.mean())
    generator = torch.Generator().manual_seed(0)
    for linear in spec.block_linears:
        weight = bank.tensor(linear.name)
        shuffled = torch.rand(weight.shape, generator=generator).argsort(dim=1) < weight.shape[1] // 2
        model.get_parameter(linear.parameter).data = weight * shuffled
    assert loss < 0.1 * float(teacher.compare(model).kl.mean())


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_cut_entries_see_the_gradients_of_what_they_keep(family, tmp_path):
    one = make_bench(family, tmp_path)
    pruned = PrunedShape(kv_heads=1, ffn_channels=one.spec.ffn_size // 2)
    config = sparse(one.spec, HALF, pruned)
    one.bank.build_for(config)
    linear = next(x for x in one.spec.block_linears if x.role in ("down", "expert_down"))
    found = one.bank.tensor(linear.name, config.choice(linear.name), pruned)
    dense = one.bank.tensor(linear.name, LayerChoice(), pruned)
    gradient = dict(gather_gradients(one.model, one.spec, one.windows))[linear.name]
    columns = kept_columns(one.spec, one.bank.statistics, linear, pruned)
    assert kept_rows(one.spec, one.bank.statistics, linear, pruned) is None
    if linear.experts > 1:
        found, dense, gradient, columns = found[1], dense[1], gradient[1], columns[1]
    seen = LayerStatistics(torch.ones(dense.shape[1]), gradient=gradient[:, columns])
    mask = find_pruner("taylor").mask(dense, HALF, seen)
    assert torch.equal(found, dense * mask)


def test_a_streamed_model_has_no_gradients(tmp_path):
    one = make_bench("llama", tmp_path)
    bank = Bank.open(tmp_path / "streamed", one.folder, None, one.spec, "hash", one.windows)
    with pytest.raises(ModelError, match="whole"):
        bank.build_for(sparse(one.spec, HALF))
