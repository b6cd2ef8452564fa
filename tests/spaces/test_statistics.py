"""Errors, intervals and pairs: exact values, properties, and coverage where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel

from paretune.spaces.errors import BrokenCandidateError, ConfigurationError
from paretune.spaces.measurement import Measurement, Sample
from paretune.spaces.statistics import (
    FEWEST_DOCUMENTS,
    TAIL_LEVELS,
    Estimate,
    compare_items,
    difference,
    mean,
    measure,
    measure_percentile,
    ratio,
)

finite = st.floats(-10, 10, allow_nan=False)
losses = st.lists(st.tuples(st.floats(0.01, 8), st.floats(0.01, 8)), min_size=2, max_size=30)


def sample(count, documents=(), unit="window", first=0):
    return Sample(windows=tuple(f"w{first + n}" for n in range(count)), documents=documents, unit=unit)


# -- means ------------------------------------------------------------------------------------------------------


def test_a_mean_by_hand():
    found = mean([1.0, 2.0, 6.0])
    assert (found.value, found.n, found.clusters, found.clustered_by) == (3.0, 3, 3, "window")
    assert found.stderr == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))
    low, high = found.interval()
    assert high - found.value == pytest.approx(t.ppf(0.975, 2) * found.stderr)
    assert found.value - low == pytest.approx(high - found.value)
    assert not found.clear


def test_clusters_by_hand():
    """Five documents with sums of deviations -4, -2, 0, 2, 4 of ten windows: 5/4 of the squares over ten squared."""
    values = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0]
    found = mean(values, sample(10, documents=(0, 0, 1, 1, 2, 2, 3, 3, 4, 4)))
    assert (found.clustered_by, found.clusters) == ("document", 5)
    assert found.stderr == pytest.approx(math.sqrt(5 / 4 * (16 + 4 + 0 + 4 + 16)) / 10)
    plain = mean(values, sample(10))
    assert plain.clustered_by == "window"
    assert plain.stderr < found.stderr


@given(st.lists(finite, min_size=FEWEST_DOCUMENTS, max_size=40))
def test_documents_of_one_window_each_change_nothing(values):
    count = len(values)
    plain, clustered = mean(values, sample(count)), mean(values, sample(count, tuple(range(count))))
    assert clustered.clustered_by == "document"
    assert clustered.stderr == pytest.approx(plain.stderr, abs=1e-12)
    assert plain.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(count), abs=1e-12)


@given(st.lists(st.integers(0, 7), min_size=2, max_size=40))
def test_few_or_lopsided_documents_are_no_clusters(documents):
    found = mean(np.arange(len(documents)), sample(len(documents), tuple(documents)))
    sizes = np.bincount(documents)
    enough = sizes.sum() ** 2 / np.square(sizes).sum() >= FEWEST_DOCUMENTS - 1e-9
    assert found.clustered_by == ("document" if enough else "window")


def test_one_window_has_no_error():
    found = mean([3.0])
    assert found.stderr is None
    assert found.interval() == (-math.inf, math.inf)
    assert found.p_value == 1.0
    with pytest.raises(ConfigurationError, match="no window"):
        mean([])


@given(st.lists(st.tuples(finite, st.floats(0.5, 5)), min_size=2, max_size=20))
def test_weights_make_a_ratio(pairs):
    rates, weights = map(np.array, zip(*pairs, strict=True))
    weighted = sample(len(pairs)).model_copy(update={"weights": tuple(weights.tolist())})
    assert mean(rates, weighted).value == pytest.approx((rates * weights).sum() / weights.sum(), abs=1e-9)


@pytest.mark.parametrize(("documents", "windows"), [(6, 8), (25, 3)])
def test_intervals_hold_the_truth_as_often_as_they_say(documents, windows):
    """Documents differ more than their windows do: errors by document cover, errors by window do not."""
    rng = np.random.default_rng(5)
    owners = tuple(np.repeat(np.arange(documents), windows).tolist())
    held = {"document": 0, "window": 0}
    trials = 600
    for _ in range(trials):
        values = np.repeat(rng.normal(size=documents), windows) + 0.5 * rng.normal(size=len(owners))
        for kind, known in (("document", owners), ("window", ())):
            low, high = mean(values, sample(len(owners), known)).interval()
            held[kind] += low <= 0.0 <= high
    assert 0.92 <= held["document"] / trials <= 0.98
    assert held["window"] / trials < 0.85


def test_intervals_of_unequal_documents_are_not_too_narrow():
    rng = np.random.default_rng(6)
    sizes = [1, 1, 2, 2, 3, 3, 4, 5]
    owners = tuple(np.repeat(np.arange(len(sizes)), sizes).tolist())
    held, trials = 0, 600
    for _ in range(trials):
        values = np.repeat(rng.normal(size=len(sizes)), sizes) + 0.3 * rng.normal(size=len(owners))
        found = mean(values, sample(len(owners), owners))
        low, high = found.interval()
        held += low <= 0.0 <= high
    assert found.clustered_by == "document"
    assert held / trials >= 0.92


# -- perplexity -------------------------------------------------------------------------------------------------


def test_a_perplexity_by_hand():
    found = measure([1.0, 3.0], sample(2), estimator="exp_mean")
    assert found.value == pytest.approx(math.exp(2.0))
    assert found.stderr == pytest.approx(math.exp(2.0) * 1.0)
    assert found.per_window == (1.0, 3.0)


def test_the_delta_method_agrees_with_brute_force():
    """Perplexities of many texts scatter as far as one text says, and their paired differences too."""
    rng = np.random.default_rng(7)
    count, draws = 60, 3000
    base = 3.0 + 0.3 * rng.normal(size=(draws, count))
    other = base + 0.05 + 0.04 * rng.normal(size=(draws, count))
    one, two = np.exp(base.mean(axis=1)), np.exp(other.mean(axis=1))
    told = [
        (
            measure(base[k], sample(count), estimator="exp_mean"),
            measure(other[k], sample(count), estimator="exp_mean"),
        )
        for k in range(200)
    ]
    assert np.mean([first.stderr for first, _ in told]) == pytest.approx(one.std(), rel=0.06)
    gaps = [difference(second, first) for first, second in told]
    assert np.mean([gap.stderr for gap in gaps]) == pytest.approx((two - one).std(), rel=0.06)
    assert np.mean([gap.value for gap in gaps]) == pytest.approx((two - one).mean(), rel=0.06)


@given(losses)
def test_a_difference_of_perplexities_is_the_difference(pairs):
    first, second = zip(*pairs, strict=True)
    one, two = (measure(values, sample(len(pairs)), estimator="exp_mean") for values in (first, second))
    assert difference(one, two).value == pytest.approx(one.value - two.value, rel=1e-9, abs=1e-9)


# -- percentiles ------------------------------------------------------------------------------------------------


def tokens(seed, windows=40, length=256, level=0.0, spread=0.4):
    rng = np.random.default_rng(seed)
    return np.exp(level + spread * rng.normal(size=(windows, 1)) + rng.normal(size=(windows, length)))


def test_the_kept_tails_give_the_percentile_back():
    found = tokens(1)
    whole = measure_percentile(found, sample(40))
    assert whole.value == float(np.quantile(found, 0.99))
    assert np.shape(whole.tails) == (40, len(TAIL_LEVELS))
    kept = range(25)
    others = measure_percentile(tokens(2, level=0.3)[:25], sample(25))
    gap = difference(whole, others)
    exact = np.quantile(found[list(kept)], 0.99) - others.value
    assert gap.n == 25
    assert gap.value == pytest.approx(exact, abs=0.05 * others.value)


def test_the_bootstrap_of_a_percentile_agrees_with_brute_force():
    """Percentiles of many texts scatter as far as one text says."""
    scatter = np.std([np.quantile(tokens(seed), 0.99) for seed in range(400)])
    told = np.mean([measure_percentile(tokens(seed), sample(40)).stderr for seed in range(40)])
    assert told == pytest.approx(scatter, rel=0.15)


def test_pairing_percentiles_takes_away_what_windows_share():
    base = tokens(3)
    other = base * 1.1
    first, second = (measure_percentile(values, sample(40)) for values in (other, base))
    gap = difference(first, second)
    assert gap.value == pytest.approx(0.1 * second.value)
    assert gap.stderr == pytest.approx(0.1 * second.stderr, rel=1e-3)
    assert gap.clear
    assert difference(first, second) == gap


# -- pairs ------------------------------------------------------------------------------------------------------


@given(losses)
def test_paired_differences_agree_with_the_t_test(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    gap = difference(measure(first, sample(len(pairs))), measure(second, sample(len(pairs))))
    deviation = np.std(np.subtract(first, second), ddof=1)
    if deviation > 1e-6:
        wanted = ttest_rel(first, second)
        assert gap.value / gap.stderr == pytest.approx(wanted.statistic, rel=1e-6)
        assert gap.p_value == pytest.approx(wanted.pvalue, rel=1e-6, abs=1e-12)
    assert gap.paired


@given(losses)
def test_differences_change_sign_when_swapped(pairs):
    for kind in ("mean", "exp_mean"):
        one, two = (
            measure(values, sample(len(pairs)), estimator=kind) for values in zip(*pairs, strict=True)
        )
        forward, backward = difference(one, two), difference(two, one)
        assert forward.value == -backward.value
        assert forward.stderr == pytest.approx(backward.stderr, rel=1e-9, abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.floats(0, 9), min_size=2, max_size=20), st.booleans())
def test_anything_less_itself_is_exactly_nothing(values, by_document):
    known = sample(len(values), tuple(range(len(values))) if by_document else ())
    readings = [
        measure(values, known),
        measure(values, known, estimator="exp_mean"),
        measure_percentile(np.array(values)[:, None] + np.arange(4.0), known),
    ]
    for reading in readings:
        gap = difference(reading, reading)
        assert (gap.value, gap.stderr, gap.clear, gap.p_value) == (0.0, 0.0, False, 1.0)
    kept = ratio(readings[0], readings[0])
    assert kept is None or (kept.value, kept.stderr) == (1.0, 0.0)


@given(st.integers(2, 12), st.integers(0, 8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_windows_that_one_alone_has_are_ignored(common, more, others, random):
    """Readings of 8 and of 32 windows are compared on the 8; in whatever order they are."""
    shared = [(f"s{n}", random.random(), random.random()) for n in range(common)]
    left = [(name, value) for name, value, _ in shared] + [(f"l{n}", 100.0) for n in range(more)]
    right = [(name, value) for name, _, value in shared] + [(f"r{n}", -100.0) for n in range(others)]
    random.shuffle(right)

    def reading(rows):
        return measure([value for _, value in rows], Sample(windows=tuple(name for name, _ in rows)))

    gap = difference(reading(left), reading(right))
    gaps = [one - two for _, one, two in shared]
    assert gap.n == common
    assert gap.value == pytest.approx(np.mean(gaps), abs=1e-12)
    assert gap.stderr == pytest.approx(np.std(gaps, ddof=1) / math.sqrt(common), abs=1e-12)


def test_a_window_that_is_there_twice_is_paired_once_each():
    twice = Sample(windows=("a", "a", "b"))
    gap = difference(measure([1.0, 2.0, 3.0], twice), measure([0.0, 0.0, 0.0], twice))
    assert (gap.n, gap.value) == (3, 2.0)


def test_readings_without_a_common_window_are_refused():
    with pytest.raises(ConfigurationError, match="no window in common"):
        difference(measure([1.0, 2.0], sample(2)), measure([1.0, 2.0], sample(2, first=2)))
    with pytest.raises(ConfigurationError, match="different kinds"):
        difference(measure([1.0, 2.0], sample(2)), measure([1.0, 2.0], sample(2), estimator="exp_mean"))


def test_readings_that_do_not_know_their_windows_are_independent():
    first, second = measure([1.0, 2.0], sample(2)), measure([5.0, 7.0], sample(2))
    gap = difference(first.alone, second)
    assert not gap.paired
    assert gap.stderr == pytest.approx(math.hypot(first.stderr, second.stderr))
    assert difference(Measurement(value=1.0), second).stderr is None


def test_a_ratio_is_paired():
    rng = np.random.default_rng(8)
    dense = rng.random(400)
    other = 0.9 * dense
    kept = ratio(measure(other, sample(400)), measure(dense, sample(400)))
    assert kept.value == pytest.approx(0.9)
    assert kept.stderr == pytest.approx(0.0, abs=1e-9)
    apart = ratio(measure(other, sample(400)).alone, measure(dense, sample(400)).alone)
    assert apart.value == pytest.approx(0.9)
    assert apart.stderr > 0.01
    assert ratio(measure([1.0, 1.0], sample(2)), measure([0.0, 0.0], sample(2))) is None


# -- items of tasks ---------------------------------------------------------------------------------------------


def answers(scores):
    return measure(scores, sample(len(scores), unit="item"))


def test_mcnemar_matches_the_binomial_by_hand():
    """7 against 1 discordant items: 2 * (C(8,0) + C(8,1)) / 2^8."""
    test = compare_items(answers([1.0] * 7 + [0.0] + [1.0] * 5), answers([0.0] * 7 + [1.0] + [1.0] * 5))
    assert (test.test, test.only_first, test.only_second) == ("McNemar", 7, 1)
    assert test.p_value == pytest.approx(2 * 9 / 256)
    assert test.difference.clustered_by == "item"
    assert compare_items(answers([1.0, 0.0]), answers([1.0, 0.0])).p_value == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_mcnemar_is_symmetric(pairs):
    first, second = (answers([float(x) for x in side]) for side in zip(*pairs, strict=True))
    forward, backward = compare_items(first, second), compare_items(second, first)
    assert forward.p_value == pytest.approx(backward.p_value)
    assert forward.only_first == backward.only_second


def test_items_with_shares_of_a_point_are_no_coin_flips():
    """F1 of .4 and .6 is not wrong and right: the differences of the items are tested."""
    first, second = [0.6, 0.7, 0.55, 0.9], [0.4, 0.45, 0.35, 0.6]
    test = compare_items(answers(first), answers(second))
    assert (test.test, test.only_first) == ("paired t", None)
    assert test.p_value == pytest.approx(ttest_rel(first, second).pvalue)
    with pytest.raises(ConfigurationError, match="without its items"):
        compare_items(answers(first).alone, answers(second))


def test_a_measurement_says_how_far_it_reaches():
    found = measure([1.0, 2.0, 6.0], sample(3))
    estimate = Estimate.of(found)
    assert estimate == mean([1.0, 2.0, 6.0])
    assert estimate.reach == pytest.approx(t.ppf(0.975, 2) * found.stderr)
    assert Estimate.of(Measurement(value=1.0)).reach == 0.0
    assert Estimate.of(Measurement(value=1.0, stderr=1.0)).reach == pytest.approx(1.959964)


def test_a_ratio_of_perplexities_is_paired_and_kinds_do_not_mix():
    losses = np.array([1.0, 2.0, 1.5, 2.5])
    first = measure(losses + 0.1, sample(4), unit="", by="test", estimator="exp_mean")
    second = measure(losses, sample(4), unit="", by="test", estimator="exp_mean")
    found = ratio(first, second)
    assert found is not None
    assert found.value == pytest.approx(math.exp(0.1))
    assert found.stderr == pytest.approx(0.0, abs=1e-12)
    seconds, thousandths = (
        Measurement(value=v, unit=u, n=1, by="test") for v, u in ((1.0, "s"), (900.0, "ms"))
    )
    for compared in (difference, ratio):
        with pytest.raises(ConfigurationError, match="different kinds"):
            compared(seconds, thousandths)
    with pytest.raises(ConfigurationError, match="cannot be tested"):
        compare_items(first, second)


# -- what few or strange readings allow --------------------------------------------------------------------------


@pytest.mark.parametrize(("clusters", "clear"), [(2, False), (5, False), (6, True), (40, True)])
@pytest.mark.parametrize("kind", ["mean", "exp_mean"])
def test_windows_that_all_say_the_same_are_as_sure_as_coins(clusters, clear, kind):
    """No scatter is no certainty: that all have one sign happens by chance in 2 of 2^clusters cases."""
    base = np.full(clusters, 0.7)
    gap = difference(*(measure(base + more, sample(clusters), estimator=kind) for more in (0.1, 0.0)))
    assert gap.value > 0
    assert gap.stderr == pytest.approx(0.0, abs=1e-12)
    assert gap.p_value == 2.0 ** (1 - clusters)
    assert gap.clear is clear
    assert gap.interval() == ((-math.inf, math.inf) if not clear else (gap.value, gap.value))
    assert math.isfinite(gap.reach)


def test_equal_percentiles_and_items_and_unknown_counts_are_no_certainty():
    one, two = (measure_percentile(np.full((3, 4), level), sample(3)) for level in (2.0, 1.0))
    assert (difference(one, two).clear, difference(one, two).p_value) == (False, 0.25)
    test = compare_items(answers([0.75, 0.75]), answers([0.5, 0.5]))
    assert (test.test, test.p_value, test.difference.clear) == ("paired t", 0.5, False)
    alone = Estimate(value=1.0, stderr=0.0, n=0)
    assert (alone.clear, alone.p_value) == (False, 1.0)


@given(st.lists(st.tuples(finite, finite, st.floats(0.5, 5), st.floats(0.5, 5)), min_size=2, max_size=20))
def test_each_side_of_a_pair_keeps_its_weights(rows):
    one, two, *weights = map(np.array, zip(*rows, strict=True))
    known = [sample(len(rows)).model_copy(update={"weights": tuple(w.tolist())}) for w in weights]
    for kind in ("mean", "exp_mean"):
        first, second = (measure(v, k, estimator=kind) for v, k in zip((one, two), known, strict=True))
        gap, swapped = difference(first, second), difference(second, first)
        assert gap.value == pytest.approx(first.value - second.value, rel=1e-9, abs=1e-9)
        assert swapped.value == pytest.approx(-gap.value)
        assert swapped.stderr == pytest.approx(gap.stderr)
        assert swapped.clusters == gap.clusters
    kept, other = measure(one + 20, known[0]), measure(two + 20, known[1])
    assert ratio(kept, other).value == pytest.approx(kept.value / other.value)


def test_a_pair_is_clustered_by_documents_that_either_side_knows():
    values, owners = np.arange(10.0) ** 2, tuple(np.repeat(range(5), 2).tolist())
    known, unknown = (measure(values, sample(10, documents)) for documents in (owners, ()))
    base = measure(np.zeros(10), sample(10))
    assert difference(unknown, known).clustered_by == "document"
    assert difference(known, base) == difference(known, measure(np.zeros(10), sample(10, owners)))
    assert difference(base, known).stderr == difference(known, base).stderr


def test_a_percentile_counts_windows_as_often_as_they_weigh():
    """A weight of 3 is the window three times over, in the value as in the error."""
    found, weights = tokens(4, windows=12), tuple([3.0] + [1.0] * 11)
    weighted = measure_percentile(found, sample(12).model_copy(update={"weights": weights}))
    repeated = np.quantile(np.repeat(found, np.array(weights, dtype=int), axis=0), 0.99)
    assert weighted.value == pytest.approx(repeated, rel=0.02)
    assert abs(weighted.value - np.quantile(found, 0.99)) > abs(weighted.value - repeated)
    light = measure_percentile(
        np.array([[9.0] * 4, [1.0] * 4]), sample(2).model_copy(update={"weights": (1e-3, 1.0)})
    )
    assert light.value == 1.0
    even = measure_percentile(found, sample(12).model_copy(update={"weights": (2.0,) * 12}))
    assert even.value == measure_percentile(found, sample(12)).value


@pytest.mark.parametrize("values", [[3.0], [1.0, 2.0], [[1.0, 2.0, 3.0]], 3.0])
def test_there_is_one_value_for_each_window(values):
    with pytest.raises(ConfigurationError, match="3 windows"):
        mean(values, sample(3))
    with pytest.raises(ConfigurationError, match="3 windows"):
        measure(values, sample(3))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 5), (3, 0)])
def test_a_percentile_needs_tokens_of_each_window(shape):
    with pytest.raises(ConfigurationError, match="3 windows"):
        measure_percentile(np.ones(shape), sample(3))


def test_a_perplexity_that_no_float_holds_is_a_broken_candidate():
    with pytest.raises(BrokenCandidateError, match=r"loss of 800 nat"):
        measure([800.0, 800.0], sample(2), estimator="exp_mean")
    far, near = (measure([v, 1.0], sample(2), estimator="exp_mean") for v in (1200.0, 2.0))
    assert math.isfinite(far.stderr)
    one = sample(1)
    first_alone = measure([1.0], one, estimator="exp_mean")
    with pytest.raises(BrokenCandidateError, match="loss of 1,200 nat"):
        difference(far, first_alone)
    with pytest.raises(BrokenCandidateError, match="loss"):
        ratio(far, first_alone)
    assert difference(far, near).value > 0
