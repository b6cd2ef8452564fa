"""Reference predictions: a bound from below on the divergence, whatever part of the vocabulary an engine tells."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.engines.predictions import Predictions
from paretune.engines.reference import Reference, divergence_from

VOCABULARY = 40


def distributions(seed, scale):
    logits = scale * torch.randn(2, 5, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return torch.log_softmax(logits, dim=-1)


def top(whole, count):
    best = whole.topk(count, dim=-1)
    return Predictions(best.values, best.indices)


def kept(whole, count):
    ids = torch.zeros(whole.shape[:2], dtype=torch.int64)
    return Reference(ids, top(whole, count), "float32", "cpu", {})


def full_kl(ours, theirs):
    return float(torch.linalg.vecdot(ours.exp(), ours - theirs).mean())


@given(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.floats(0.1, 6.0),
    st.integers(1, 16),
    st.integers(1, 39),
)
def test_what_is_found_is_never_more_than_the_whole_divergence(one, two, scale, count, told):
    ours, theirs = distributions(one, scale), distributions(two, scale)
    whole = full_kl(ours, theirs)
    for found in (Predictions(theirs), top(theirs, told)):
        seen = divergence_from(kept(ours, count), found)
        assert -1e-6 <= seen.kl <= whole + 1e-4
        assert seen.tokens == 10


def test_the_whole_vocabulary_says_as_much_as_the_tokens_that_both_name():
    ours, theirs = distributions(1, 3.0), distributions(2, 0.2)
    wide = divergence_from(kept(ours, 8), Predictions(theirs)).kl
    assert abs(divergence_from(kept(ours, 8), top(theirs, VOCABULARY)).kl - wide) < 1e-5
    assert wide > 0.5 * full_kl(ours, theirs)


def test_an_engine_that_names_none_of_the_likeliest_tokens_is_told_from_the_candidate():
    ours = torch.full((1, 1, VOCABULARY), 1e-6)
    ours[..., 0] = 1.0
    theirs = torch.full((1, 1, VOCABULARY), 1e-6)
    theirs[..., 20:30] = 0.1
    ours, theirs = (values.div(values.sum()).log() for values in (ours, theirs))
    seen = divergence_from(kept(ours, 1), top(theirs, 10))
    assert seen.kl > 5.0
    assert seen.top1_agreement == 0.0


def test_the_same_predictions_have_no_divergence():
    ours = distributions(3, 2.0)
    for found in (Predictions(ours), top(ours, 12)):
        seen = divergence_from(kept(ours, 8), found)
        assert seen.kl < 1e-6
        assert seen.top1_agreement == 1.0
