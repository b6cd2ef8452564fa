"""The front: who is on it, who is picked, who cannot be told apart, who is left when it is thinned."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.front import Candidate, ParetoFront
from paretune.search.hypervolume import hypervolume
from paretune.search.scoring import signed
from paretune.spaces.limits import Limit
from paretune.spaces.metrics import METRICS
from paretune.spaces.statistics import measure, numbered

points = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40)


def _candidate(kl, size, number=0, per_window=None):
    metrics = {"kl": float(kl), "weight_bytes": float(size)}
    quality = None if per_window is None else measure(per_window, numbered(len(per_window)))
    return Candidate(f"c{number}", f"{number:04d}", (float(kl), float(size)), quality, metrics)


def _front(pairs):
    found = [_candidate(kl, size, number) for number, (kl, size) in enumerate(pairs)]
    return ParetoFront(found, ("kl", "weight_bytes"), (31.0, 31.0))


def test_members_best_quality_first():
    front = _front([(3, 1), (1, 3), (2, 2), (3, 3), (2, 2)])
    assert [m.values for m in front.members] == [(1, 3), (2, 2), (3, 1)]


def test_one_digest_is_one_candidate():
    twice = [_candidate(1, 2, 7), _candidate(1, 2, 7)]
    assert len(ParetoFront(twice, ("kl", "weight_bytes"), (9.0, 9.0)).members) == 1


@given(points)
def test_members_do_not_beat_each_other(pairs):
    members = _front(pairs).members
    costs = [m.values[1] for m in members]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)
    for kl, size in pairs:
        assert any(m.values[0] <= kl and m.values[1] <= size for m in members)


@given(points, st.randoms())
def test_permutation_changes_nothing(pairs, random):
    found = [_candidate(kl, size, number) for number, (kl, size) in enumerate(pairs)]
    mixed = list(found)
    random.shuffle(mixed)
    one, other = (ParetoFront(c, ("kl", "weight_bytes"), (31.0, 31.0)) for c in (found, mixed))
    assert [m.values for m in one.members] == [m.values for m in other.members]
    assert one.hypervolume == other.hypervolume


def test_a_flipped_metric_is_signed():
    """A quality that is better when higher enters negated, so the front stays the same."""
    assert signed("kl", 0.25) == 0.25
    assert signed("top1_agreement", 0.25) == -0.25


def test_select_under_limits():
    front = _front([(1, 9), (2, 6), (4, 3)])
    assert front.select([]).values == (1, 9)
    assert front.select([Limit.parse("weight_bytes<=6")]).values == (2, 6)
    assert front.select([Limit.parse("weight_bytes<=6"), Limit.parse("kl<=1")]) is None


def test_a_limit_on_a_predicted_time():
    """Nothing was measured, so the prediction is judged; a measured value would come first."""
    slow, fast, timed = (
        Candidate(f"c{n}", f"{n:04d}", (float(n), 3.0 - n), None, {"kl": float(n), **times})
        for n, times in enumerate(
            (
                {"tpot_s_predicted": 0.02},
                {"tpot_s_predicted": 0.005, "tpot_s": 0.03},
                {"tpot_s_predicted": 0.01},
            )
        )
    )
    front = ParetoFront([slow, fast, timed], ("kl", "weight_bytes"), (9.0, 9.0))
    assert front.select([Limit.parse("tpot<=10ms")]) == timed
    with pytest.raises(KeyError):
        front.select([Limit.parse("bytes<=1")])


def test_classes_compare_with_their_first_member():
    """Neighbours that overlap do not join the ends of a chain."""
    windows = [tuple(step + noise for noise in (0.0, 0.1, 0.0, 0.1)) for step in (0.0, 0.01, 1.0)]
    alternating = (0.011, 0.1, 0.005, 0.13)
    members = [
        _candidate(0, 3, 0, windows[0]), _candidate(1, 2, 1, alternating), _candidate(2, 1, 2, windows[2]),
    ]  # fmt: skip
    classes = ParetoFront(members, ("kl", "weight_bytes"), (9.0, 9.0)).classes()
    assert classes == {"0000": 0, "0001": 0, "0002": 1}


def test_classes_without_windows_are_apart():
    assert list(_front([(1, 3), (2, 2)]).classes().values()) == [0, 1]


@given(points, st.integers(2, 8), st.lists(st.integers(0, 30), max_size=4))
def test_thinned(pairs, count, costs):
    front = _front(pairs)
    kept = front.thinned(count, costs)
    assert len(kept) == min(count, len(front.members))
    assert kept[0] is front.members[0]
    assert kept[-1] is front.members[-1]
    assert list(kept) == [m for m in front.members if m in kept]
    if costs and count > 2:
        within = [m for m in front.members if m.values[1] <= costs[0]]
        assert not within or within[0] in kept


def test_thinned_fills_the_widest_gap():
    front = _front([(n, 30 - n) for n in range(9)])
    assert [m.values[0] for m in front.thinned(3)] == [0, 4, 8]
    assert [m.values[0] for m in front.thinned(4, [29])] == [0, 1, 4, 8]


METRIC_NAMES = ("top1_agreement", "weight_bytes", "tpot_s")
triples = st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=25)


def _signed_front(rows):
    found = [
        Candidate(
            f"c{number}", f"{number:04d}",
            tuple(signed(name, float(value)) for name, value in zip(METRIC_NAMES, row, strict=True)),
            metrics=dict(zip(METRIC_NAMES, map(float, row), strict=True)),
        )
        for number, row in enumerate(rows)
    ]  # fmt: skip
    return ParetoFront(found, METRIC_NAMES, tuple(signed(name, 7.0) for name in METRIC_NAMES))


def _turned(names):
    """The other direction for some metrics."""
    other = {"minimize": "maximize", "maximize": "minimize"}
    return mock.patch.dict(
        METRICS, {n: METRICS[n].model_copy(update={"direction": other[METRICS[n].direction]}) for n in names}
    )


@given(triples, st.sets(st.sampled_from(METRIC_NAMES)), st.integers(0, 6))
def test_flipping_sign_and_direction_of_metrics_changes_nothing(rows, flipped, bound):
    signs = [-1 if name in flipped else 1 for name in METRIC_NAMES]
    front = _signed_front(rows)
    with _turned(flipped):
        turned = _signed_front([[s * v for s, v in zip(signs, row, strict=True)] for row in rows])
    turned.reference = front.reference  # 7 is the bound of a minimised metric
    assert [m.digest for m in turned.members] == [m.digest for m in front.members]
    assert turned.hypervolume == front.hypervolume
    limits = [Limit.parse(f"bytes<={bound}"), Limit.parse(f"bytes>={-bound}")]
    one, other = front.select(limits[:1]), turned.select([limits["weight_bytes" in flipped]])
    assert (one and one.digest) == (other and other.digest)


@given(triples)
def test_a_maximised_metric_is_maximised(rows):
    """Nothing on the front has a rival that agrees more, is no larger and no slower."""
    kept = [tuple(m.metrics[name] for name in METRIC_NAMES) for m in _signed_front(rows).members]
    for agreement, size, time in kept:
        rivals = [r for r in rows if r[0] >= agreement and r[1] <= size and r[2] <= time]
        assert set(rivals) == {(agreement, size, time)}
    assert max(row[0] for row in rows) == kept[0][0]


@given(points)
def test_volume_is_that_of_all_candidates(pairs):
    assert _front(pairs).hypervolume == hypervolume(np.array(pairs, dtype=float), (31.0, 31.0))


@given(points, st.integers(0, 30), st.integers(0, 30))
def test_the_selected_is_the_best_of_all_candidates_within_limits(pairs, most_bytes, most_kl):
    found = _front(pairs).select([Limit.parse(f"bytes<={most_bytes}"), Limit.parse(f"kl<={most_kl}")])
    within = [(kl, size) for kl, size in pairs if size <= most_bytes and kl <= most_kl]
    assert (found and found.values) == (min(within) if within else None)


def test_no_candidates():
    front = _front([])
    assert (front.members, front.hypervolume, front.classes()) == ((), 0.0, {})
    assert front.select([]) is None
    assert front.thinned(5, [3.0]) == ()


def test_of_one_digest_the_last_reading_counts():
    """A candidate that was read again on more text is where the longer reading puts it."""
    front = ParetoFront(
        [_candidate(1, 5, 0), _candidate(2, 3, 1), _candidate(4, 5, 0)], ("kl", "weight_bytes"), (9.0, 9.0)
    )
    assert [m.values for m in front.members] == [(2.0, 3.0)]


@pytest.mark.parametrize(("shift", "alike"), [(0.0, True), (0.2262, True), (0.2263, False), (-0.2263, False)])
def test_alike_is_within_the_interval_of_student_s_t(shift, alike):
    """Ten differences of shift - 0.3 and shift + 0.3 in turn have a standard error of 0.1; t is 2.262."""
    windows = tuple(float(w) for w in range(10))
    other = tuple(w + shift + (0.3 if n % 2 else -0.3) for n, w in enumerate(windows))
    members = [_candidate(0, 3, 0, windows), _candidate(1, 2, 1, other)]
    classes = ParetoFront(members, ("kl", "weight_bytes"), (9.0, 9.0)).classes()
    assert (classes["0000"] == classes["0001"]) == alike


def test_readings_of_unequal_length_are_paired_on_what_both_have():
    members = [_candidate(0, 3, 0, (1.0, 2.0)), _candidate(1, 2, 1, (1.0, 2.0, 30.0))]
    classes = ParetoFront(members, ("kl", "weight_bytes"), (9.0, 9.0)).classes()
    assert classes == {"0000": 0, "0001": 0}


@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=8))
def test_classes_follow_the_front(readings):
    members = [
        _candidate(number, len(readings) - number, number, tuple(map(float, reading)))
        for number, reading in enumerate(readings)
    ]
    numbers = list(ParetoFront(members, ("kl", "weight_bytes"), (99.0, 99.0)).classes().values())
    assert numbers[0] == 0
    assert all(after - before in {0, 1} for before, after in itertools.pairwise(numbers))
    for number in set(numbers):
        first = numbers.index(number)
        for place, other in enumerate(numbers):
            alike = _alike(readings[first], readings[place])
            assert alike or other != number
            assert not (alike and place == first + numbers.count(number))


def _alike(first, second):
    """Paired difference of 4 windows within the interval of Student's t with 3 degrees of freedom, squared."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    total = sum(differences)
    # mean^2 <= t^2 * variance / 4, both sides times 16 * 3
    return 3 * total**2 <= 3.182446**2 * (4 * sum(d * d for d in differences) - total**2)


@given(st.integers(2, 60), st.integers(2, 20))
def test_thinned_evenly(size, count):
    front = _front([(n, size - n) for n in range(size)])
    places = [int(m.values[0]) for m in front.thinned(count)]
    gaps = [right - left for left, right in itertools.pairwise(places)]
    assert max(gaps) <= 2 * min(gaps) + 1


def test_the_first_costs_are_kept_before_others():
    front = _front([(n, 30 - n) for n in range(9)])
    assert [m.values[0] for m in front.thinned(3, [25, 29, 27])] == [0, 5, 8]
    assert [m.values[0] for m in front.thinned(4, [25, 29, 27])] == [0, 1, 5, 8]
    assert [m.values[0] for m in front.thinned(3, [0.0])] == [0, 4, 8]
