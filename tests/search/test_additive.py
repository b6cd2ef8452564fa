"""Additive costs and the union of exact fronts over pruned sizes, against enumeration of every point."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search.additive import NEGLIGIBLE, FrontMaker
from paretune.search.samplers import find_sampler
from paretune.search.space_problem import SpaceProblem
from paretune.spaces.choice import LayerChoice
from paretune.spaces.patterns import Restrictions
from paretune.spaces.size import weight_bytes
from paretune.spaces.space import SearchSpace
from tests.fakes import FakeLegality, tiny_moe_spec, tiny_spec
from tests.search.synthetic import Synthetic

MANY = 10**6
UNIT = 2.0**-20
"""Sensitivities are whole multiples of it, so sums of them are exact in any order."""


@dataclass
class Additive(Synthetic):
    """Sensitivities add up, nothing else; some of the pruned model's own."""

    @cached_property
    def sensitivities(self):
        random = np.random.default_rng(7)
        return [self._of(parameter, int(random.integers(1, 2000))) for parameter in self.space.parameters]

    def quality(self, point):
        return float(sum(d[c] for d, c in zip(self.sensitivities, point, strict=True)))

    @cached_property
    def sizes(self):
        """Bytes of every legal point."""
        points = itertools.product(*(range(size) for size in self.space.sizes))
        return {point: _bytes(self, point) for point in points if self.space.ruling(point)}

    @property
    def truth(self):
        """The front by enumeration."""
        return _front((size, self.quality(point)) for point, size in self.sizes.items())

    @staticmethod
    def _of(parameter, importance):
        widths = [getattr(getattr(choice, "weight", None), "num_bits", None) for choice in parameter.choices]
        if parameter.kind == "layer":
            return np.array([0.0 if w == 16 else UNIT * importance * 4 ** (8 - w) for w in widths])
        return np.array([UNIT * importance * 40 * place for place in range(len(parameter.choices))])


def _problem(blocks=1, **restrictions):
    wanted = {
        "bits": (2, 4, 8, 16), "embedding_bits": (8, 16), "group_size": 64, "methods": ("rtn",), "sparsity": (0.0,),
        "blocks": (blocks,), "kv_heads": (2,), "ffn_channels": (256,), "kv_bits": (16,), **restrictions,
    }  # fmt: skip
    return Additive(tiny_spec(blocks=blocks), Restrictions(**wanted))


@pytest.fixture(scope="module")
def cut():
    """The whole model and two smaller ones; a group of 64 does not divide 160 channels."""
    return _problem(ffn_channels=(192, 160), bits=(2, 4, 16))


def _pruned_sizes(problem):
    """Base point and own sensitivity of the whole model and of each smaller one."""
    space = problem.space
    index = space.index("pruned.ffn_channels")
    bases = [(*space.origin()[:index], c, *space.origin()[index + 1 :]) for c in range(space.sizes[index])]
    return {base: problem.quality(base) for base in bases}


def _front(pairs):
    """(cost, sensitivity) that no other beats, cheapest first."""
    kept = []
    for cost, sensitivity in sorted(pairs):
        if not kept or sensitivity < kept[-1][1]:
            kept.append((cost, sensitivity))
    return kept


def _bytes(problem, point):
    return problem.cost_of(point)["weight_bytes"]


@dataclass
class Fronts:
    """Of known shapes, over one cost."""

    maker: FrontMaker
    own: dict
    metric: str = "weight_bytes"

    def fronts(self, entries, members):
        return self.maker.fronts(entries, self.own, {self.metric: 1.0}, members)

    @property
    def exact(self):
        return self.maker.exact


def _maker(problem, members=None, cells=MANY):
    return Fronts(FrontMaker(problem.problem, cells), members or _pruned_sizes(problem))


# -- costs ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_costs_of_choices_add_up_to_that_of_the_point(cut, data):
    base = data.draw(st.sampled_from(list(_pruned_sizes(cut))))
    costs, rest = cut.problem.additive_costs("weight_bytes", base)
    drawn = [data.draw(st.integers(0, size - 1)) for size in cut.space.sizes]
    point = tuple(
        b if cut.problem.is_shape(i) else c for i, (b, c) in enumerate(zip(base, drawn, strict=True))
    )
    total = rest + sum(cost[choice] for cost, choice in zip(costs, point, strict=True))
    assert total == _bytes(cut, point) if cut.space.ruling(point) else np.isnan(total)


def _timed(problem, seconds):
    """The same space under a time that adds up over parameters."""

    def cost_of(point):
        return {"tpot_s": float(1000 + sum(s[c] for s, c in zip(seconds, point, strict=True)))}

    return SpaceProblem(
        problem.space, ("kl", "tpot_s"), cost_of, lambda point: bool(problem.space.ruling(point))
    )


@given(st.integers(0, 2**32 - 1))
def test_a_time_is_the_difference_that_one_parameter_makes(cut, seed):
    """Slower kernels of narrow widths are no gain: the front is the enumerated one under the time."""
    random = np.random.default_rng(seed)
    seconds = [random.integers(0, 50, size).astype(float) for size in cut.space.sizes]
    problem = _timed(cut, seconds)
    maker = Fronts(FrontMaker(problem, MANY), _pruned_sizes(cut), "tpot_s")
    found = maker.fronts(cut.sensitivities, MANY)
    assert maker.exact
    truth = _front((problem.cost_of(g)["tpot_s"], cut.quality(g)) for g in cut.sizes)
    assert [(m.cost, m.total) for m in found] == truth


def test_what_a_pruned_lacks_costs_nothing():
    problem = _problem(blocks=2)
    problem.restrictions = problem.restrictions.model_copy(update={"blocks": (1,)})
    space = problem.space
    base = tuple(
        1 if parameter.kind == "blocks" else c
        for parameter, c in zip(space.parameters, space.origin(), strict=True)
    )
    costs, rest = problem.problem.additive_costs("weight_bytes", base)
    missing = [
        g.group is not None and not space.pruned(base).keeps_block(g.group.block) for g in space.parameters
    ]
    assert sum(missing) == 4
    assert all(not cost.any() for cost, gone in zip(costs, missing, strict=True) if gone)
    assert rest + sum(cost[c] for cost, c in zip(costs, base, strict=True)) == _bytes(problem, base)
    for member in _maker(problem, {base: 0.5}).fronts(problem.sensitivities, MANY):
        changed = [i for i, (a, b) in enumerate(zip(member.point, base, strict=True)) if a != b]
        assert not any(missing[i] for i in changed)
        assert member.total == 0.5 + problem.quality(member.point) - problem.quality(base)


MODELS = {
    "tied": tiny_spec(blocks=1),
    "half": tiny_spec(blocks=1, dtype="bfloat16", tied=False),
    "experts": tiny_moe_spec(blocks=1),
}


@pytest.mark.parametrize("group_size", [8, 32, None])
@pytest.mark.parametrize("model", MODELS)
def test_more_bits_never_give_fewer_bytes(model, group_size):
    """Of any group by one method, and so of any point: choices add up."""
    widths = (2, 3, 4, 5, 6, 8, 16)
    space = SearchSpace(
        MODELS[model], FakeLegality(), Restrictions(bits=widths, embedding_bits=widths, group_size=group_size)
    )
    compared = dict.fromkeys(space.groups, 0)
    for index in space.layer_parameters:
        parameter, sizes = space.parameters[index], space.choice_bytes(space.parameters[index])
        for (one, small), (other, large) in itertools.permutations(
            zip(parameter.choices, sizes, strict=True), 2
        ):
            assert isinstance(one, LayerChoice)
            assert isinstance(other, LayerChoice)
            alike = one.sparsity == other.sparsity and (other.weight.dense or one.method == other.method)
            if alike and one.weight.num_bits < other.weight.num_bits:
                assert small < large
                compared[parameter.group] += 1
    assert min(compared.values()) >= 2 * 21  # pairs of seven widths, by two methods


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_wider_parameter_makes_a_larger_model(cut, data):
    space = cut.space
    point = [data.draw(st.integers(0, size - 1)) for size in space.sizes]
    parameter = data.draw(st.sampled_from(space.layer_parameters))
    widths = [choice.weight.num_bits for choice in space.parameters[parameter].choices]
    sizes = [
        weight_bytes(space.spec, space.decode(changed))
        for choice in np.argsort(widths)
        if space.ruling(changed := (*point[:parameter], int(choice), *point[parameter + 1 :]))
    ]
    assert sizes == sorted(set(sizes))


# -- fronts --------------------------------------------------------------------------------------------------


def test_front_is_the_enumerated_one(cut):
    """All pruned models together; the one whose shapes refuse a format keeps it dense."""
    maker = _maker(cut)
    found = maker.fronts(cut.sensitivities, MANY)
    assert maker.exact
    assert [(m.cost, m.total) for m in found] == cut.truth
    assert len({cut.problem.shape_of(m.point) for m in found}) == 3


@given(st.integers(0, 2**32 - 1))
def test_fronts_of_any_table(cut, seed):
    """Few different sensitivities, so that pruned models tie; more bits may even do more harm."""
    random = np.random.default_rng(seed)
    table = [random.integers(0, 9, size).astype(float) for size in cut.space.sizes]
    own = {base: float(random.integers(0, 9)) for base in _pruned_sizes(cut)}
    found = _maker(cut, own).fronts(table, MANY)
    pruned = {cut.problem.shape_of(base): kl for base, kl in own.items()}
    others = [index for index in range(len(table)) if not cut.problem.is_shape(index)]

    def total(point):
        return pruned[cut.problem.shape_of(point)] + sum(float(table[i][point[i]]) for i in others)

    truth = _front((size, total(point)) for point, size in cut.sizes.items())
    assert [(m.cost, m.total) for m in found] == truth
    for member in found:
        assert (member.cost, member.total) == (_bytes(cut, member.point), total(member.point))
        assert all(type(choice) is int for choice in member.point)


def test_refused_formats_are_left_out_even_if_they_do_less_sensitivity(cut):
    """The pruned model whose down projection must stay dense, under a table by which dense is the worst."""
    base = list(_pruned_sizes(cut))[2]
    table = [np.arange(size, dtype=float) for size in cut.space.sizes]
    found = _maker(cut, {base: 0.0}).fronts(table, MANY)
    down = cut.space.index("blocks.0.down")
    assert found
    assert all(cut.space.ruling(member.point) for member in found)
    assert {member.point[down] for member in found} == {cut.space.origin()[down]}


@pytest.mark.parametrize("cells", [200, 2000])
def test_on_a_coarse_grid_members_cost_what_their_points_do(cut, cells):
    maker = _maker(cut, cells=cells)
    found = maker.fronts(cut.sensitivities, MANY)
    assert not maker.exact
    assert len(found) > 10
    for member in found:
        assert member.cost == _bytes(cut, member.point)
        assert member.total == cut.quality(member.point)
    costs, totals = [m.cost for m in found], [m.total for m in found]
    assert costs == sorted(set(costs))
    assert totals == sorted(set(totals), reverse=True)
    # Two roundings a parameter, each by half a level at most, against the best member of the enumerated front.
    off = 5 * max(costs) / (cells // len(cut.space.parameters) // 2)
    for cost, total in cut.truth:
        assert min(t for c, t in zip(costs, totals, strict=True) if c <= cost + off) <= total


@pytest.mark.parametrize("most", [2, 7])
def test_thinned_fronts_are_parts_of_the_whole(cut, most):
    whole = _maker(cut).fronts(cut.sensitivities, MANY)
    some = _maker(cut).fronts(cut.sensitivities, most)
    assert len(some) <= 3 * (most + 1) < len(whole)
    ends = {(m.cost, m.total) for m in (whole[0], whole[-1])}
    assert ends <= {(m.cost, m.total) for m in some}
    one = {base: kl for base, kl in _pruned_sizes(cut).items() if base == cut.space.origin()}
    members = {(m.cost, m.total) for m in _maker(cut, one).fronts(cut.sensitivities, MANY)}
    kept = [(m.cost, m.total) for m in _maker(cut, one).fronts(cut.sensitivities, most)]
    assert set(kept) <= members
    assert most // 2 <= len(kept) <= most + 1


def test_the_shape_is_what_the_parameters_of_the_pruned_say(cut):
    narrow, other = cut.space.uniform(4, "rtn"), list(_pruned_sizes(cut))[1]
    assert cut.problem.shape_of(narrow) == cut.problem.shape_of(cut.space.origin())
    assert cut.problem.shape_of(other) != cut.problem.shape_of(narrow)
    assert [g.name for i, g in enumerate(cut.space.parameters) if cut.problem.is_shape(i)] == [
        "pruned.blocks", "pruned.kv_heads", "pruned.ffn_channels",
    ]  # fmt: skip


def test_two_costs_are_traded_by_their_weights(cut):
    """The front over a weighted sum, member for member."""
    weights = {"weight_bytes": 1.0, "tpot_s": 3.0}

    def cost_of(point):
        return {"weight_bytes": float(_bytes(cut, point)), "tpot_s": 7.0 * point[0]}

    problem = SpaceProblem(cut.space, ("kl", *weights), cost_of, lambda point: bool(cut.space.ruling(point)))
    found = FrontMaker(problem, MANY).fronts(cut.sensitivities, _pruned_sizes(cut), weights, MANY)
    truth = _front((size + 3.0 * 7 * point[0], cut.quality(point)) for point, size in cut.sizes.items())
    assert [(m.cost, m.total) for m in found] == truth


# -- a problem whose front is known --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["additive", "paretune"])
def test_known_front_is_solved_exactly(cut, name):
    """Smaller pruned models among the members; nothing is left to find when the sampler has no more ideas."""
    told, sampler = cut.search(find_sampler(name), seed=0, trials=len(cut.sizes))
    assert _front((o.values[1], o.values[0]) for o in told) == cut.truth
    assert sampler.ask(len(cut.sizes)) is None
    assert 20 < len(cut.truth) < len(told) < len(cut.sizes)


def test_a_long_front_is_thinned_evenly():
    """Proposals are members of the true front; skipped, while sensitivity matters, are only ones within a step of
    cost."""
    problem = _problem(blocks=8, bits=(2, 3, 4, 16))
    costs, rest = problem.problem.additive_costs("weight_bytes", problem.space.origin())
    truth = [(rest, 0.0)]
    for cost, sensitivity in zip(costs, problem.sensitivities, strict=True):
        # What is beaten among the first parameters is beaten whatever the others are.
        choices = list(zip(cost.tolist(), sensitivity.tolist(), strict=True))
        truth = _front((c + more, d + sensitivity) for c, d in truth for more, sensitivity in choices)
    told, _ = problem.search(find_sampler("additive"), seed=0, trials=MANY)
    first = len(problem.first(with_marginals=True))
    values = [(o.values[1], o.values[0]) for o in told]
    assert set(values[first:]) <= set(truth)
    kept = [place for place, member in enumerate(truth) if member in set(values)]
    assert (kept[0], kept[-1]) == (0, len(truth) - 1)
    assert 100 < len(kept) < 257 < len(truth)
    step = (truth[-1][0] - truth[0][0]) / 255
    useful = [place for place in kept if truth[place][1] >= NEGLIGIBLE * truth[0][1]]
    assert len(useful) > 100
    for before, after in itertools.pairwise(useful):
        assert truth[after][0] - truth[before + 1][0] <= step
