"""The front: who is on it, who is picked, who cannot be told apart, who is left when it is thinned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.front import Candidate, ParetoFront
from search.scoring import signed
from spaces.limits import Limit

points = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40)


def _candidate(kl, size, number=0, per_window=None):
    metrics = {"kl": float(kl), "weight_bytes": float(size)}
    return Candidate(f"c{number}", f"{number:04d}", (float(kl), float(size)), per_window, metrics)


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
