"""The contract of pruners over every registered one, and what is particular to each."""

from dataclasses import replace

import pytest
import torch

from paretune.compressors import entries
from paretune.compressors.bank import Bank
from paretune.compressors.entries import Entry
from paretune.compressors.pruners import PRUNERS, find_pruner
from paretune.compressors.quantizers import gptq
from paretune.compressors.quantizers.gptq import inverse_factor
from paretune.compressors.statistics import LayerStatistics
from paretune.compressors.weight_source import WeightSource
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import WHOLE, CompressionConfig
from paretune.spaces.errors import FormatError, ModelError, UnknownNameError
from paretune.spaces.formats import integer_format
from tests.compressors import contract
from tests.compressors.conftest import made_now, make_bench, make_windows

NAMES = ("magnitude", "wanda", "sparsegpt", "taylor")


def test_every_pruner_is_under_contract():
    assert set(NAMES) == set(PRUNERS)
    assert all(find_pruner(name).closure == "layer" for name in NAMES)
    with pytest.raises(UnknownNameError, match="wanda"):
        find_pruner("wandaa")


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    contract.check_pruner(find_pruner(name))


def test_wanda_keeps_what_meets_large_inputs():
    weight = torch.tensor([[1.0, 0.9, 0.8, 0.1]])
    seen = LayerStatistics(torch.tensor([0.01, 1.0, 1.0, 400.0]))
    mask = find_pruner("wanda").mask(weight, Sparsity(fraction=0.5), seen)
    assert mask.tolist() == [[False, True, False, True]]
    by_size = find_pruner("magnitude").mask(weight, Sparsity(fraction=0.5, criterion="magnitude"))
    assert by_size.tolist() == [[True, True, False, False]]


def test_wanda_without_statistics_is_refused():
    with pytest.raises(FormatError, match="magnitude"):
        find_pruner("wanda").mask(torch.ones(2, 4), Sparsity(fraction=0.5))


def test_a_pattern_that_does_not_divide_is_refused():
    sparsity = Sparsity(fraction=0.5, pattern="2:4", criterion="magnitude")
    with pytest.raises(FormatError, match="4 must divide"):
        find_pruner("magnitude").mask(torch.ones(2, 6), sparsity)


def layer_error(weight, pruned, covariance):
    difference = pruned - weight
    return float(torch.einsum("ij,jk,ik->", difference, covariance, difference))


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
def test_second_order_beats_first_beats_none(pattern):
    """Layer errors on inputs that lean on each other."""
    weight, seen = (
        contract.trained_like(rows=32, columns=256, seed=15),
        contract.correlated(256, seed=3, tokens=600),
    )
    scale = torch.rand(256, generator=torch.Generator().manual_seed(4)).add(0.1).square()
    covariance = seen.covariance * scale.sqrt().outer(scale.sqrt())
    seen = LayerStatistics(covariance.diagonal().clone(), covariance)
    errors = []
    for name in ("sparsegpt", "wanda", "magnitude"):
        sparsity = Sparsity.model_validate({"fraction": 0.5, "pattern": pattern, "criterion": name})
        found = find_pruner(name).prune(weight, sparsity, seen)
        errors.append(layer_error(weight, found.weight, covariance))
    assert errors[0] < 0.8 * min(errors[1:])
    # Without a pattern, magnitude may take its zeros from any row and wanda may not.
    assert pattern == "unstructured" or errors[1] < errors[2]


def literal_sparsegpt(weight, covariance, fraction, damping=0.01):
    """The paper's algorithm 1 with one block, without any factorisation: the inverse is shrunk column by column."""
    columns = weight.shape[1]
    hessian = covariance.double() + damping * covariance.diagonal().double().mean() * torch.eye(columns)
    weight, inverse = weight.double().clone(), torch.linalg.inv(hessian)
    inverses = []
    shrunk = inverse.clone()
    for column in range(columns):
        inverses.append(shrunk.clone())
        shrunk = (
            shrunk - shrunk[:, column : column + 1] @ shrunk[column : column + 1] / shrunk[column, column]
        )
    scores = weight.square() / torch.stack([inverses[c][c, c] for c in range(columns)])
    order = scores.flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    mask.view(-1)[order[: len(weight) * (columns - round(fraction * columns))]] = True
    for column in range(columns):
        row = inverses[column][column]
        error = torch.where(mask[:, column], 0.0, weight[:, column]) / row[column]
        weight[:, column:] -= error.unsqueeze(1) * row[column:]
    return weight * mask


def test_sparsegpt_is_the_algorithm_of_the_paper():
    weight, seen = contract.trained_like(rows=6, columns=24, seed=16), contract.correlated(24, seed=5)
    found = find_pruner("sparsegpt").prune(weight, Sparsity(fraction=0.5, criterion="sparsegpt"), seen)
    expected = literal_sparsegpt(weight, seen.covariance, 0.5)
    torch.testing.assert_close(found.weight.double(), expected, rtol=1e-4, atol=1e-6)


def test_sparsegpt_takes_poor_statistics():
    weight, half = (
        contract.trained_like(rows=4, columns=32, seed=17),
        Sparsity(fraction=0.5, criterion="sparsegpt"),
    )
    few = contract.correlated(32, seed=6, tokens=5).covariance
    few[3, :] = few[:, 3] = 0.0  # a channel that never fired
    for covariance in (few, torch.zeros(32, 32)):
        found = find_pruner("sparsegpt").prune(
            weight, half, LayerStatistics(covariance.diagonal(), covariance)
        )
        assert torch.isfinite(found.weight).all()
        assert (~found.mask).sum() == 4 * 16
    with pytest.raises(FormatError, match="covariance"):
        find_pruner("sparsegpt").prune(weight, half, contract.statistics(32))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("bits", [16, 4])
def test_updated_weights_are_what_candidates_compute_with(family, bits, tmp_path):
    bench = make_bench(family, tmp_path, dtype="bfloat16")
    method = {"weight": integer_format(4, 32), "method": "gptq"} if bits == 4 else {}
    choice = LayerChoice(sparsity=Sparsity(fraction=0.5, criterion="sparsegpt"), **method)
    bench.bank.observations.correlate()
    config = CompressionConfig(layers={x.name: choice for x in bench.spec.block_linears})
    model = bench.assembler.apply(config)
    for linear in bench.spec.block_linears:
        dense = bench.bank.tensor(linear.name).view(-1, linear.in_features)
        found = model.get_parameter(linear.parameter).float().view(dense.shape)
        matrices = (found == 0).view(linear.experts, -1)
        assert (matrices.sum(dim=1) >= matrices.shape[1] // 2).all()
        assert not torch.equal(found, dense * (found != 0))  # what stays has moved
    again = make_bench(family, tmp_path, dtype="bfloat16")  # the same bank, read from its files
    layer = bench.spec.block_linears[0].name
    assert torch.equal(again.bank.tensor(layer, choice), bench.bank.tensor(layer, choice))


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_sparsegpt_gives_up_dead_channels_first(pattern):
    weight, seen = contract.trained_like(rows=16, columns=64, seed=18), contract.correlated(64, seed=9)
    dead = torch.arange(64) % 4 == 3  # one weight of every four
    covariance = seen.covariance.clone()
    covariance[dead, :] = covariance[:, dead] = 0.0
    sparsity = Sparsity.model_validate({"fraction": 0.5, "pattern": pattern, "criterion": "sparsegpt"})
    found = find_pruner("sparsegpt").prune(
        weight, sparsity, LayerStatistics(covariance.diagonal().clone(), covariance)
    )
    assert (found.weight[:, dead] == 0).all()
    assert (~found.mask[:, ~dead]).sum() == 16 * 16  # a quarter more, of those that live


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sparsegpt"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(name, bad):
    weight, seen = contract.trained_like(rows=16, columns=64), contract.correlated(64)
    seen = contract.with_gradient(seen, 16)
    if name == "magnitude":
        weight[3, 5] = bad
    seen.second_moment[7] = bad
    seen = replace(seen, gradient=seen.gradient.clone().fill_(bad))
    with pytest.raises(FormatError, match="NaN or infinite"):
        find_pruner(name).mask(weight, Sparsity(fraction=0.5, criterion=name), seen)


@pytest.mark.parametrize("criterion", NAMES)
def test_a_pruned_weight_that_is_not_finite_is_refused_by_name(llama, criterion):
    layer = "model.layers.1.mlp.down_proj"
    llama.bank.observations.correlate()
    llama.bank.observations.differentiate()
    llama.bank._source.loaded(layer + ".weight")[0, 0] = float("nan")
    llama.bank._source = WeightSource(None, llama.model, llama.spec)
    with pytest.raises(ModelError, match=layer):
        llama.bank.tensor(layer, LayerChoice(sparsity=Sparsity(fraction=0.5, criterion=criterion)))


@pytest.mark.parametrize("criterion", NAMES)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_do_not_depend_on_how_many_rows_are_held(llama, criterion, pattern, monkeypatch):
    sparsity = Sparsity.model_validate({"fraction": 0.5, "pattern": pattern, "criterion": criterion})
    linear = llama.spec.linear("model.layers.1.mlp.up_proj")
    entry = Entry.of(llama.spec, linear, LayerChoice(sparsity=sparsity), WHOLE)
    llama.bank.observations.correlate()
    llama.bank.observations.differentiate()
    made = []
    monkeypatch.setattr(gptq, "inverse_factor", lambda *given: made.append(1) or inverse_factor(*given))
    whole = entries.read_mask(entry, made_now(llama.bank, entry))
    monkeypatch.setattr(entries, "weights_at_once", lambda device: 1)
    monkeypatch.setattr(entries, "_MASK_SLAB_WEIGHTS", 5 * linear.in_features)
    again = entries.read_mask(entry, made_now(llama.bank, entry))
    assert torch.equal(again, whole)
    # Once an input, neither once a slab nor once more when the layer is made again.
    assert len(made) == (1 if criterion == "sparsegpt" else 0)


def test_an_expert_that_no_token_reached_is_pruned_like_the_others(tmp_path):
    bench = make_bench("qwen3_moe", tmp_path)
    windows = make_windows(windows=1, tokens=3)
    bank = Bank.open(tmp_path / "few", bench.folder, bench.model, bench.spec, "few", windows)
    choice = LayerChoice(sparsity=Sparsity(fraction=0.5, criterion="taylor"))
    bank.build_for(CompressionConfig(layers={x.name: choice for x in bench.spec.block_linears}))
    reached = 0
    for linear in bench.spec.of_role("expert_gate_up"):
        gate, up = (bank.tensor(linear.name, choice) == 0).flatten(2).chunk(2, dim=1)
        assert ((gate.float().mean(dim=(1, 2)) - up.float().mean(dim=(1, 2))).abs() < 0.5).all()
        found = bank.observations._read(f"gradient/{linear.name}", linear)["gradient"]
        reached += int(found.flatten(1).any(dim=1).sum())
    assert reached < sum(x.experts for x in bench.spec.of_role("expert_gate_up"))  # some were not


def test_no_two_shares_have_one_name():
    names = {Sparsity(fraction=f).name for f in (0.5, 0.5000001, 0.9999999, 0.3, 0.7)}
    assert len(names) == 5
    assert {"s50", "s70"} < names
