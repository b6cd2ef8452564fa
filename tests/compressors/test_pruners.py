"""The contract of pruners over every registered one, and what is particular to each."""

import pytest
import torch

from compressors.pruners import PRUNERS, find_pruner
from compressors.statistics import SiteStatistics
from spaces.choice import Sparsity
from spaces.errors import FormatError, UnknownNameError
from tests.compressors import contract

NAMES = ("magnitude", "wanda")


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
