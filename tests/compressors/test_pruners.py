"""The contract of pruners over every registered one, and what is particular to each."""

import pytest
import torch

from compressors.pruners import PRUNERS, find_pruner
from compressors.statistics import SiteStatistics
from spaces.choice import SiteChoice, Sparsity
from spaces.configuration import CompressionConfig
from spaces.errors import FormatError, UnknownNameError
from spaces.formats import integer_format
from tests.compressors import contract
from tests.compressors.conftest import make_bench

NAMES = ("magnitude", "wanda", "sparsegpt", "taylor")


def test_every_pruner_is_under_contract():
    assert set(NAMES) == set(PRUNERS)
    assert all(PRUNERS[name].closure == "site" for name in NAMES)
    with pytest.raises(UnknownNameError, match="wanda"):
        find_pruner("wandaa")


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    contract.check_pruner(find_pruner(name))


def test_wanda_keeps_what_meets_large_inputs():
    weight = torch.tensor([[1.0, 0.9, 0.8, 0.1]])
    seen = SiteStatistics(torch.tensor([0.01, 1.0, 1.0, 400.0]))
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
    seen = SiteStatistics(covariance.diagonal().clone(), covariance)
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
            weight, half, SiteStatistics(covariance.diagonal(), covariance)
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
    choice = SiteChoice(sparsity=Sparsity(fraction=0.5, criterion="sparsegpt"), **method)
    bench.bank.correlate()
    config = CompressionConfig(sites={x.name: choice for x in bench.spec.block_linears})
    model = bench.assembler.apply(config)
    for linear in bench.spec.block_linears:
        dense = bench.bank.tensor(linear.name).view(-1, linear.in_features)
        found = model.get_parameter(linear.parameter).float().view(dense.shape)
        matrices = (found == 0).view(linear.experts, -1)
        assert (matrices.sum(dim=1) >= matrices.shape[1] // 2).all()
        assert not torch.equal(found, dense * (found != 0))  # what stays has moved
    again = make_bench(family, tmp_path, dtype="bfloat16")  # the same bank, read from its files
    site = bench.spec.block_linears[0].name
    assert torch.equal(again.bank.tensor(site, choice), bench.bank.tensor(site, choice))
