"""What every sampler promises, whatever it does inside."""

from __future__ import annotations

from dataclasses import replace

from paretune.search.candidates import Candidates
from paretune.search.samplers import Kind
from paretune.search.samplers.problem import Observation
from paretune.spaces.size import dense_bytes
from tests.fakes import tiny_spec
from tests.search.synthetic import exhaustible_problem, small_problem


def check_proposals_are_legal_and_new(kind: Kind, trials: int) -> None:
    synthetic = small_problem(blocks=_blocks(trials))
    told, sampler = synthetic.search(kind, seed=1, trials=trials)
    first = len(synthetic.first(with_marginals=kind.uses_marginals))
    assert len(told) == first + trials or (sampler.ended == "converged" and len(told) > first + trials // 2)
    digests = [synthetic.space.decode(observation.point).digest for observation in told]
    assert len(set(digests)) == len(digests)
    for observation in told[first:]:
        assert isinstance(observation.point, tuple)
        assert all(type(choice) is int for choice in observation.point)
        assert len(observation.point) == len(synthetic.space.parameters)
        assert synthetic.space.ruling(observation.point)


def check_resumed_search_is_the_same(kind: Kind, trials: int) -> None:
    """A search that starts anew and finds every measurement in its folder takes the same way."""
    synthetic = small_problem(blocks=_blocks(trials))
    first = len(synthetic.first(with_marginals=kind.uses_marginals))
    told, sampler = synthetic.search(kind, seed=3, trials=trials)
    resumed = Candidates(synthetic.problem, kind, 3)
    for observation in told[:first]:
        resumed.tell(observation)
    for trial, observation in enumerate(told[first:]):
        assert resumed.ask(trial) == observation.point, f"trial {trial} differs"
        resumed.tell(observation)
    assert resumed.ask(trials) == sampler.ask(trials)


def check_history_alone_decides(kind: Kind, trials: int) -> None:
    """A sampler that is told everything at once, without having proposed any of it, goes on the same way."""
    synthetic = small_problem(blocks=_blocks(trials))
    told, sampler = synthetic.search(kind, seed=3, trials=trials)
    resumed = Candidates(synthetic.problem, kind, 3)
    for observation in told:
        resumed.tell(observation)
    for trial in range(trials, trials + 5):
        assert resumed.ask(trial) == sampler.ask(trial)


def check_batches_know_what_is_pending(kind: Kind, count: int) -> None:
    """Several proposals at once are several points, told in whatever order they end."""
    synthetic = small_problem(blocks=_blocks(count))
    sampler = Candidates(synthetic.problem, kind, 1)
    for observation in synthetic.first(with_marginals=kind.uses_marginals):
        sampler.tell(observation)
    asked = [sampler.ask(trial) for trial in range(count)]
    digests = {synthetic.space.decode(point).digest for point in asked if point is not None}
    assert len(digests) == count
    for point in asked[::-1]:
        assert point is not None
        sampler.tell(synthetic.observe(point))
    more = sampler.ask(count)
    assert more is not None
    assert synthetic.space.decode(more).digest not in digests


def check_seeds_differ(kind: Kind, trials: int) -> None:
    synthetic = small_problem(blocks=_blocks(trials))
    one, other = (synthetic.search(kind, seed, trials)[0] for seed in (1, 2))
    assert [o.point for o in one] != [o.point for o in other]


def check_limits(kind: Kind, trials: int, *, bytes_are_known: bool) -> None:
    """Known limits are kept; ones that only scoring shows are lived with, and so are broken candidates."""
    blocks = _blocks(trials)
    synthetic = small_problem(
        0.5 * dense_bytes(tiny_spec(blocks=blocks)), bytes_are_known=bytes_are_known, blocks=blocks
    )
    first = len(synthetic.first(with_marginals=kind.uses_marginals))
    told, sampler = synthetic.search(kind, seed=1, trials=trials)
    assert any(not observation.feasible for observation in told[:first])
    assert len(told) == first + trials
    if bytes_are_known:
        assert all(observation.feasible for observation in told[first:])
    point = sampler.ask(trials)
    assert point is not None
    sampler.tell(Observation(point, (float("inf"), 1.0), violations=(1.0,)))
    assert sampler.ask(trials + 1) != point


def check_nothing_feasible(kind: Kind, trials: int) -> None:
    """Limits on the quality that nothing meets end no search."""
    synthetic = small_problem(blocks=_blocks(trials))
    sampler = Candidates(synthetic.problem, kind, 1)
    for observation in synthetic.first(with_marginals=kind.uses_marginals):
        sampler.tell(replace(observation, violations=(1.0,)))
    for trial in range(trials):
        point = sampler.ask(trial)
        if point is None:
            assert sampler.ended == "converged"
            assert trial > trials // 2
            break
        sampler.tell(replace(synthetic.observe(point), violations=(1.0,)))


def check_small_space_ends(kind: Kind) -> None:
    """No sampler repeats itself when there is nothing new, and then it says so."""
    synthetic = exhaustible_problem()
    size = 1
    for choices in synthetic.space.sizes:
        size *= choices
    told, sampler = synthetic.search(kind, seed=0, trials=size + 1)
    digests = [synthetic.space.decode(observation.point).digest for observation in told]
    assert len(set(digests)) == len(digests) <= size
    assert sampler.ask(size + 1) is None


def check_improves(kind: Kind, trials: int) -> None:
    """The front is larger than that of the baselines, probes and marginals."""
    synthetic = small_problem(blocks=_blocks(trials))
    first = synthetic.first(with_marginals=kind.uses_marginals)
    told, _ = synthetic.search(kind, seed=1, trials=trials)
    assert synthetic.volume(told) > 1.005 * synthetic.volume(first)


def _blocks(trials: int) -> int:
    """Samplers that are too slow for many trials are given a small model."""
    return 3 if trials > 1 else 1
