"""The front: who is on it, who is picked, who cannot be told apart, who is left when it is thinned."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.pareto import (
    LEAST_LOSS,
    Candidate,
    ParetoFront,
    advantage,
    log_volume,
)  # fmt: skip
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
    return ParetoFront(found, (31.0, 31.0))


def test_members_best_quality_first():
    front = _front([(3, 1), (1, 3), (2, 2), (3, 3), (2, 2)])
    assert [m.values for m in front.members] == [(1, 3), (2, 2), (3, 1)]


def test_one_digest_is_one_candidate():
    twice = [_candidate(1, 2, 7), _candidate(1, 2, 7)]
    assert len(ParetoFront(twice, (9.0, 9.0)).members) == 1


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
    one, other = (ParetoFront(c, (31.0, 31.0)) for c in (found, mixed))
    assert [m.values for m in one.members] == [m.values for m in other.members]


def test_a_flipped_metric_is_signed():
    """A quality that is better when higher enters negated, so the front stays the same."""
    assert signed("kl", 0.25) == 0.25
    assert signed("top1_agreement", 0.25) == -0.25


def test_limits():
    found = _candidate(2, 6)
    assert found.meets([])
    assert found.meets([Limit.parse("weight_bytes<=6")])
    assert not found.meets([Limit.parse("weight_bytes<=6"), Limit.parse("kl<=1")])


@pytest.mark.parametrize(
    ("limit", "met"),
    [("kl<=2.3", True), ("kl<=2.1", False), ("kl>=1.7", True), ("kl>=1.9", False)],
)
def test_a_limit_is_met_with_the_interval(limit, met):
    found = Candidate("c", "0", (2.0, 1.0), None, {"kl": 2.0, "weight_bytes": 1.0}, {"kl": 0.2})
    assert found.meets([Limit.parse(limit), Limit.parse("bytes<=1")])
    assert found.meets([Limit.parse(limit), Limit.parse("bytes<=1")], clearly=True) == met


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
    assert [c.meets([Limit.parse("tpot<=10ms")]) for c in (slow, fast, timed)] == [False, False, True]
    with pytest.raises(KeyError):
        slow.meets([Limit.parse("bytes<=1")])


def test_classes_compare_with_their_first_member():
    """Neighbours that overlap do not join the ends of a chain."""
    first, alternating, apart = (0.0, 0.1, 0.0, 0.1), (0.011, 0.1, 0.005, 0.13), (1.0, 1.11, 1.0, 1.1)
    members = [
        _candidate(0, 3, 0, first), _candidate(1, 2, 1, alternating), _candidate(2, 1, 2, apart),
    ]  # fmt: skip
    classes = ParetoFront(members, (9.0, 9.0)).classes()
    assert classes == {"0000": 0, "0001": 0, "0002": 1}


def test_classes_without_windows_are_apart():
    assert list(_front([(1, 3), (2, 2)]).classes().values()) == [0, 1]


@given(points, st.integers(2, 8), st.lists(st.integers(0, 30), max_size=4))
def test_thinned(pairs, count, costs):
    front = _front(pairs)
    kept = front.thinned(count, [(cost,) for cost in costs])
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
    assert [m.values[0] for m in front.thinned(4, [(29,)])] == [0, 1, 4, 8]


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
    return ParetoFront(found, tuple(signed(name, 7.0) for name in METRIC_NAMES))


def _turned(names):
    """The other direction for some metrics."""
    other = {"minimize": "maximize", "maximize": "minimize"}
    return mock.patch.dict(
        METRICS, {n: METRICS[n].model_copy(update={"direction": other[METRICS[n].direction]}) for n in names}
    )


@given(triples, st.sets(st.sampled_from(METRIC_NAMES)))
def test_flipping_sign_and_direction_of_metrics_changes_nothing(rows, flipped):
    signs = [-1 if name in flipped else 1 for name in METRIC_NAMES]
    front = _signed_front(rows)
    with _turned(flipped):
        turned = _signed_front([[s * v for s, v in zip(signs, row, strict=True)] for row in rows])
    assert [m.digest for m in turned.members] == [m.digest for m in front.members]


@given(triples)
def test_a_maximised_metric_is_maximised(rows):
    """Nothing on the front has a rival that agrees more, is no larger and no slower."""
    kept = [tuple(m.metrics[name] for name in METRIC_NAMES) for m in _signed_front(rows).members]
    for agreement, size, time in kept:
        rivals = [r for r in rows if r[0] >= agreement and r[1] <= size and r[2] <= time]
        assert set(rivals) == {(agreement, size, time)}
    assert max(row[0] for row in rows) == kept[0][0]


def test_no_candidates():
    front = _front([])
    assert (front.members, front.classes(), front.thinned(5, [(3.0,)])) == ((), {}, ())


def test_of_one_digest_the_last_reading_counts():
    """A candidate that was read again on more text is where the longer reading puts it."""
    front = ParetoFront([_candidate(1, 5, 0), _candidate(2, 3, 1), _candidate(4, 5, 0)], (9.0, 9.0))
    assert [m.values for m in front.members] == [(2.0, 3.0)]


@pytest.mark.parametrize(("shift", "alike"), [(0.0, True), (0.2262, True), (0.2263, False), (-0.2263, False)])
def test_alike_is_within_the_interval_of_student_s_t(shift, alike):
    """Ten differences of shift - 0.3 and shift + 0.3 in turn have a standard error of 0.1; t is 2.262."""
    windows = tuple(float(w) for w in range(10))
    other = tuple(w + shift + (0.3 if n % 2 else -0.3) for n, w in enumerate(windows))
    members = [_candidate(0, 3, 0, windows), _candidate(1, 2, 1, other)]
    classes = ParetoFront(members, (9.0, 9.0)).classes()
    assert (classes["0000"] == classes["0001"]) == alike


def test_readings_of_unequal_length_are_paired_on_what_both_have():
    members = [_candidate(0, 3, 0, (1.0, 2.0)), _candidate(1, 2, 1, (1.0, 2.0, 30.0))]
    classes = ParetoFront(members, (9.0, 9.0)).classes()
    assert classes == {"0000": 0, "0001": 0}


@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=8))
def test_classes_follow_the_front(readings):
    members = [
        _candidate(number, len(readings) - number, number, tuple(map(float, reading)))
        for number, reading in enumerate(readings)
    ]
    numbers = list(ParetoFront(members, (99.0, 99.0)).classes().values())
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
    assert [m.values[0] for m in front.thinned(3, [(25,), (29,), (27,)])] == [0, 5, 8]
    assert [m.values[0] for m in front.thinned(4, [(25,), (29,), (27,)])] == [0, 1, 5, 8]
    assert [m.values[0] for m in front.thinned(3, [(0.0,)])] == [0, 4, 8]


def test_members_that_must_stay_do():
    front = _front([(n, 30 - n) for n in range(9)])
    for kept in front.members:
        shown = front.thinned(4, [(25,), (29,)], [kept.digest])
        assert len(shown) == 4
        assert kept in shown
        assert [m.values for m in shown] == sorted(m.values for m in shown)


# -- volume and advantage ------------------------------------------------------------------------------------

losses = st.lists(st.tuples(st.floats(1e-4, 5.0), st.floats(0.05, 1.0)), min_size=1, max_size=12)


def _covered(pairs):
    """Share of the costs up to 1 within which something costs as little."""
    return 1 - min(cost for _, cost in pairs)


@given(losses, st.floats(0.5, 2.0))
def test_every_loss_by_a_factor_moves_the_volume_by_its_logarithm(pairs, factor):
    """Times the share of costs that is covered: what the old volume, over the loss itself, hardly noticed."""
    before = log_volume(pairs, (20.0, 1.0))
    after = log_volume([(factor * loss, cost) for loss, cost in pairs], (20.0, 1.0))
    assert before - after == pytest.approx(np.log(factor) * _covered(pairs), abs=1e-9)


@given(losses, st.sampled_from([1e3, 1e9]))
def test_units_of_costs_do_not_move_the_volume(pairs, unit):
    scaled = [(loss, unit * cost) for loss, cost in pairs]
    assert log_volume(scaled, (20.0, unit)) == pytest.approx(log_volume(pairs, (20.0, 1.0)))


def test_golden_volume():
    """From a quarter of the dense bytes on a tenth of the reference, from a half on a hundredth."""
    pairs = [(1.0, 25.0), (0.1, 50.0), (0.5, 60.0)]
    assert log_volume(pairs, (10.0, 100.0)) == pytest.approx((0.25 + 2 * 0.5) * np.log(10))


def test_what_loses_nothing_ends_at_the_least_loss():
    assert log_volume([(0.0, 0.5)], (1.0, 1.0)) == pytest.approx(0.5 * -np.log(LEAST_LOSS))


@given(losses, losses, st.floats(1.1, 4.0))
def test_a_factor_on_all_rivals_is_the_advantage(ours, theirs, factor):
    plain = advantage(ours, theirs)
    worse = advantage(ours, [(factor * loss, cost) for loss, cost in theirs])
    if plain is None:
        assert worse is None
    else:
        assert worse[0] == pytest.approx(factor * plain[0])
        assert worse[1:] == plain[1:]


def test_golden_advantage():
    """Twice as good from 1 to 2 MB, eight times from 2 to 3 MB: four times on the mean."""
    ours, theirs = [(1.0, 1.0), (0.1, 2.0)], [(2.0, 1.0), (0.8, 2.0), (0.4, 3.0), (0.9, 9.0)]
    assert advantage(ours, theirs) == pytest.approx((4.0, 1.0, 3.0))
    assert advantage(ours, [(2.0, 1.0)]) == pytest.approx((2.0, 1.0, 1.0))
    assert advantage(ours, [(1.0, 0.5)]) is None
    assert advantage(ours, []) is None


def test_advantage_over_two_costs_is_beside_members_that_exceed_none():
    ours = [(1.0, 1.0, 5.0), (0.1, 4.0, 1.0), (0.5, 4.0, 4.0)]
    theirs = [(4.0, 2.0, 6.0), (0.9, 5.0, 2.0)]
    assert advantage(ours, theirs) == pytest.approx((6.0, 2.0, 5.0))


cubes = st.lists(st.tuples(*[st.floats(0.05, 0.95)] * 3), min_size=1, max_size=14)


@given(cubes, st.integers(2, 6))
def test_three_objectives_are_thinned_to_most_of_their_volume(rows, count):
    found = [Candidate(f"c{n}", f"{n:04d}", row) for n, row in enumerate(rows)]
    front = ParetoFront(found, (1.0, 1.0, 1.0))
    shown = front.thinned(count)
    assert len(shown) == min(count, len(front.members))
    assert [m for m in front.members if m in shown] == list(shown)
    volume = log_volume([m.values for m in front.members], front.reference)
    assert (
        log_volume([m.values for m in shown], front.reference)
        >= (1 - (1 - 1 / count) ** count) * min(volume, _most(front, count)) - 1e-12
    )


def _most(front, count):
    """The largest volume of so many members."""
    some = itertools.combinations([m.values for m in front.members], min(count, len(front.members)))
    return max(log_volume(values, front.reference) for values in itertools.islice(some, 300))


def test_greedy_thinning_keeps_more_than_a_walk_along_the_quality_order():
    """Of a random front in three objectives, by a tenth at least: the walk knows nothing of the second cost."""
    rng = np.random.default_rng(3)
    values = rng.dirichlet([1.0, 1.0, 1.0], 150) * 0.9 + 0.05
    front = ParetoFront([Candidate(f"c{n}", f"{n:04d}", tuple(v)) for n, v in enumerate(values)], (1.0,) * 3)
    everything = log_volume([m.values for m in front.members], front.reference)
    places = np.linspace(0, len(front.members) - 1, 8).round().astype(int)
    walk = log_volume([front.members[i].values for i in places], front.reference)
    greedy = log_volume([m.values for m in front.thinned(8)], front.reference)
    assert walk + 0.05 * everything < greedy < everything
