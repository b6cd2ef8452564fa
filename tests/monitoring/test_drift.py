"""KL over two lists of likely tokens: exact where it can be, and never above the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from paretune.monitoring.drift import divergence


def logs(**shares):
    return {token: math.log(share) for token, share in shares.items()}


def test_the_same_distribution_does_not_drift():
    whole = logs(a=0.5, b=0.25, c=0.25)
    assert divergence(whole, whole) == pytest.approx(0.0, abs=1e-10)
    assert divergence(logs(a=0.5, b=0.25), logs(a=0.5, b=0.25)) == 0.0


def test_named_tokens_and_one_rest_are_worked_out_by_hand():
    found = divergence(logs(a=0.5, b=0.3), logs(a=0.25, b=0.5))
    assert found == pytest.approx(0.5 * math.log(2) + 0.3 * math.log(0.6) + 0.2 * math.log(0.8))


def test_lists_without_a_token_in_common_are_far_apart():
    # The server says that nothing it leaves out is likelier than 0.1: at most 0.2 of what the reference names.
    found = divergence(logs(a=0.6, b=0.3), logs(c=0.8, d=0.1))
    assert found == pytest.approx(0.9 * math.log(0.9 / 0.2) + 0.1 * math.log(0.1 / 0.8))
    assert found > 1.0


def test_a_token_swapped_at_the_end_of_the_list_is_no_drift():
    shares = {"a": 0.9, "b": 0.05}
    assert divergence(logs(**shares, c=0.001), logs(**shares, d=0.001)) == pytest.approx(0.0, abs=1e-12)


def test_a_server_that_knows_nothing_of_it_stays_finite():
    assert divergence({1: 0.0}, {1: -9999.0}) == pytest.approx(9999.0)
    assert math.isfinite(divergence({1: -0.1}, {2: 0.0}))


@settings(max_examples=200, deadline=None)
@given(
    seed=some.integers(0, 10_000),
    spread=some.floats(0.1, 6.0),
    top=some.integers(1, 8),
    apart=some.floats(0, 6.0),
)
def test_it_never_exceeds_the_divergence_over_the_whole_vocabulary(seed, spread, top, apart):
    random = np.random.default_rng(seed)
    first = random.normal(size=24) * spread
    second = first + random.normal(size=24) * apart
    p, q = (x - np.log(np.exp(x).sum()) for x in (first, second))
    truth = float((np.exp(p) * (p - q)).sum())
    named = [{int(i): float(x[i]) for i in np.argsort(-x)[:top]} for x in (p, q)]
    found = divergence(*named)
    assert 0.0 <= found <= truth + 1e-9
