"""Paired comparisons: exact values, symmetry, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from paretune.evaluators.comparison import mcnemar, paired_difference
from paretune.spaces.errors import ConfigurationError

finite = st.floats(-10, 10, allow_nan=False)


def test_mcnemar_matches_the_binomial_by_hand():
    # 1 against 7 discordant items: 2 * (C(8,0) + C(8,1)) / 2^8
    first = [1.0] * 7 + [0.0] + [1.0] * 5
    second = [0.0] * 7 + [1.0] + [1.0] * 5
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second) == (7, 1)
    assert result.p_value == pytest.approx(2 * 9 / 256)


def test_mcnemar_without_discordance_says_nothing():
    assert mcnemar([1.0, 0.0], [1.0, 0.0]).p_value == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_symmetric(pairs):
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    forward, backward = mcnemar(first, second), mcnemar(second, first)
    assert forward.p_value == pytest.approx(backward.p_value)
    assert forward.only_first == backward.only_second


def test_paired_difference_agrees_with_the_t_test():
    rng = np.random.default_rng(3)
    first = rng.normal(size=40)
    second = first + 0.1 + 0.2 * rng.normal(size=40)
    result = paired_difference(first, second)
    assert result.mean / result.stderr == pytest.approx(ttest_rel(second, first).statistic)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=30))
def test_paired_difference_changes_sign_when_swapped(pairs):
    first, second = zip(*pairs, strict=True)
    forward, backward = paired_difference(first, second), paired_difference(second, first)
    assert forward.mean == pytest.approx(-backward.mean, abs=1e-12)
    assert forward.stderr == pytest.approx(backward.stderr, abs=1e-12)


def test_unequal_lists_are_refused():
    with pytest.raises(ConfigurationError, match="same windows"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ConfigurationError, match="same items"):
        mcnemar([1.0], [1.0, 0.0])
