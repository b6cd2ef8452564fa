"""Additive costs and the union of exact fronts over student sizes, against enumeration of every genome."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.additive import NEGLIGIBLE, FrontMaker, additive_costs, is_student_gene, student_of
from search.observation import Problem
from search.proposers import find_proposer
from spaces.choice import SiteChoice
from spaces.patterns import Restrictions
from spaces.size import weight_bytes
from spaces.space import SearchSpace
from tests.fakes import FakeLegality, tiny_moe_spec, tiny_spec
from tests.search.synthetic import Synthetic

MANY = 10**6
UNIT = 2.0**-20
"""Damages are whole multiples of it, so sums of them are exact in any order."""


@dataclass
class Additive(Synthetic):
    """Damages add up, nothing else; some of the student's own."""

    @cached_property
    def damages(self):
        random = np.random.default_rng(7)
        return [self._of(gene, int(random.integers(1, 2000))) for gene in self.space.genes]

    def quality(self, genome):
        return float(sum(d[c] for d, c in zip(self.damages, genome, strict=True)))

    @cached_property
    def sizes(self):
        """Bytes of every legal genome."""
        genomes = itertools.product(*(range(size) for size in self.space.sizes))
        return {genome: _bytes(self, genome) for genome in genomes if self.space.ruling(genome)}

    @property
    def truth(self):
        """The front by enumeration."""
        return _front((size, self.quality(genome)) for genome, size in self.sizes.items())

    @staticmethod
    def _of(gene, importance):
        widths = [getattr(getattr(choice, "weight", None), "num_bits", None) for choice in gene.choices]
        if gene.kind == "site":
            return np.array([0.0 if w == 16 else UNIT * importance * 4 ** (8 - w) for w in widths])
        return np.array([UNIT * importance * 40 * place for place in range(len(gene.choices))])


def _problem(blocks=1, **restrictions):
    wanted = {
        "bits": (2, 4, 8, 16), "outer_bits": (8, 16), "group_size": 64, "methods": ("rtn",), "sparsity": (0.0,),
        "blocks": (blocks,), "kv_heads": (2,), "ffn_channels": (256,), "kv_bits": (16,), **restrictions,
    }  # fmt: skip
    return Additive(tiny_spec(blocks=blocks), Restrictions(**wanted))


@pytest.fixture(scope="module")
def cut():
    """The whole model and two smaller ones; a group of 64 does not divide 160 channels."""
    return _problem(ffn_channels=(192, 160), bits=(2, 4, 16))


def _students(problem):
    """Base genome and own damage of the whole model and of each smaller one."""
    space = problem.space
    index = space.index("student.ffn_channels")
    bases = [(*space.dense()[:index], c, *space.dense()[index + 1 :]) for c in range(space.sizes[index])]
    return {base: problem.quality(base) for base in bases}


def _front(pairs):
    """(cost, damage) that no other beats, cheapest first."""
    kept = []
    for cost, damage in sorted(pairs):
        if not kept or damage < kept[-1][1]:
            kept.append((cost, damage))
    return kept


def _bytes(problem, genome):
    return problem.cost_of(genome)["weight_bytes"]


def _maker(problem, members=None, cells=MANY):
    return FrontMaker(problem.problem, "weight_bytes", members or _students(problem), cells)


# -- costs ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_costs_of_choices_add_up_to_that_of_the_genome(cut, data):
    base = data.draw(st.sampled_from(list(_students(cut))))
    costs, rest = additive_costs(cut.problem, "weight_bytes", base)
    drawn = [data.draw(st.integers(0, size - 1)) for size in cut.space.sizes]
    genome = tuple(
        b if is_student_gene(cut.problem, i) else c for i, (b, c) in enumerate(zip(base, drawn, strict=True))
    )
    total = rest + sum(cost[choice] for cost, choice in zip(costs, genome, strict=True))
    assert total == _bytes(cut, genome) if cut.space.ruling(genome) else np.isnan(total)


def _timed(problem, seconds):
    """The same space under a time that adds up over genes."""

    def cost_of(genome):
        return {"tpot_s": float(1000 + sum(s[c] for s, c in zip(seconds, genome, strict=True)))}

    return Problem(
        problem.space, ("kl", "tpot_s"), cost_of, lambda genome: bool(problem.space.ruling(genome))
    )


@given(st.integers(0, 2**32 - 1))
def test_a_time_is_the_difference_that_one_gene_makes(cut, seed):
    """Slower kernels of narrow widths are no gain: the front is the enumerated one under the time."""
    random = np.random.default_rng(seed)
    seconds = [random.integers(0, 50, size).astype(float) for size in cut.space.sizes]
    problem = _timed(cut, seconds)
    maker = FrontMaker(problem, "tpot_s", _students(cut), MANY)
    found = maker.fronts(cut.damages, MANY)
    assert maker.exact
    truth = _front((problem.cost_of(g)["tpot_s"], cut.quality(g)) for g in cut.sizes)
    assert [(m.cost, m.total) for m in found] == truth


def test_what_a_student_lacks_costs_nothing():
    problem = _problem(blocks=2)
    problem.restrictions = problem.restrictions.model_copy(update={"blocks": (1,)})
    space = problem.space
    base = tuple(
        1 if gene.kind == "blocks" else c for gene, c in zip(space.genes, space.dense(), strict=True)
    )
    costs, rest = additive_costs(problem.problem, "weight_bytes", base)
    missing = [
        g.group is not None and not space.student(base).keeps_block(g.group.block) for g in space.genes
    ]
    assert sum(missing) == 4
    assert all(not cost.any() for cost, gone in zip(costs, missing, strict=True) if gone)
    assert rest + sum(cost[c] for cost, c in zip(costs, base, strict=True)) == _bytes(problem, base)
    for member in _maker(problem, {base: 0.5}).fronts(problem.damages, MANY):
        changed = [i for i, (a, b) in enumerate(zip(member.genome, base, strict=True)) if a != b]
        assert not any(missing[i] for i in changed)
        assert member.total == 0.5 + problem.quality(member.genome) - problem.quality(base)


MODELS = {
    "tied": tiny_spec(blocks=1),
    "half": tiny_spec(blocks=1, dtype="bfloat16", tied=False),
    "experts": tiny_moe_spec(blocks=1),
}


@pytest.mark.parametrize("group_size", [8, 32, None])
@pytest.mark.parametrize("model", MODELS)
def test_more_bits_never_give_fewer_bytes(model, group_size):
    """Of any group by one method, and so of any genome: choices add up."""
    widths = (2, 3, 4, 5, 6, 8, 16)
    space = SearchSpace(
        MODELS[model], FakeLegality(), Restrictions(bits=widths, outer_bits=widths, group_size=group_size)
    )
    compared = dict.fromkeys(space.groups, 0)
    for index in space.site_genes:
        gene, sizes = space.genes[index], space.choice_bytes(space.genes[index])
        for (one, small), (other, large) in itertools.permutations(zip(gene.choices, sizes, strict=True), 2):
            assert isinstance(one, SiteChoice)
            assert isinstance(other, SiteChoice)
            alike = one.sparsity == other.sparsity and (other.weight.dense or one.method == other.method)
            if alike and one.weight.num_bits < other.weight.num_bits:
                assert small < large
                compared[gene.group] += 1
    assert min(compared.values()) >= 2 * 21  # pairs of seven widths, by two methods


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_wider_gene_makes_a_larger_model(cut, data):
    space = cut.space
    genome = [data.draw(st.integers(0, size - 1)) for size in space.sizes]
    gene = data.draw(st.sampled_from(space.site_genes))
    widths = [choice.weight.num_bits for choice in space.genes[gene].choices]
    sizes = [
        weight_bytes(space.spec, space.decode(changed))
        for choice in np.argsort(widths)
        if space.ruling(changed := (*genome[:gene], int(choice), *genome[gene + 1 :]))
    ]
    assert sizes == sorted(set(sizes))


# -- fronts --------------------------------------------------------------------------------------------------


def test_front_is_the_enumerated_one(cut):
    """All students together; the one whose shapes refuse a format keeps it dense."""
    maker = _maker(cut)
    found = maker.fronts(cut.damages, MANY)
    assert maker.exact
    assert [(m.cost, m.total) for m in found] == cut.truth
    assert len({student_of(cut.problem, m.genome) for m in found}) == 3


@given(st.integers(0, 2**32 - 1))
def test_fronts_of_any_table(cut, seed):
    """Few different damages, so that students tie; more bits may even do more harm."""
    random = np.random.default_rng(seed)
    table = [random.integers(0, 9, size).astype(float) for size in cut.space.sizes]
    own = {base: float(random.integers(0, 9)) for base in _students(cut)}
    found = _maker(cut, own).fronts(table, MANY)
    student = {student_of(cut.problem, base): kl for base, kl in own.items()}
    others = [index for index in range(len(table)) if not is_student_gene(cut.problem, index)]

    def total(genome):
        return student[student_of(cut.problem, genome)] + sum(float(table[i][genome[i]]) for i in others)

    truth = _front((size, total(genome)) for genome, size in cut.sizes.items())
    assert [(m.cost, m.total) for m in found] == truth
    for member in found:
        assert (member.cost, member.total) == (_bytes(cut, member.genome), total(member.genome))
        assert all(type(choice) is int for choice in member.genome)


def test_refused_formats_are_left_out_even_if_they_do_less_harm(cut):
    """The student whose down projection must stay dense, under a table by which dense is the worst."""
    base = list(_students(cut))[2]
    table = [np.arange(size, dtype=float) for size in cut.space.sizes]
    found = _maker(cut, {base: 0.0}).fronts(table, MANY)
    down = cut.space.index("blocks.0.down")
    assert found
    assert all(cut.space.ruling(member.genome) for member in found)
    assert {member.genome[down] for member in found} == {cut.space.dense()[down]}


@pytest.mark.parametrize("cells", [200, 2000])
def test_on_a_coarse_grid_members_cost_what_their_genomes_do(cut, cells):
    maker = _maker(cut, cells=cells)
    found = maker.fronts(cut.damages, MANY)
    assert not maker.exact
    assert len(found) > 10
    for member in found:
        assert member.cost == _bytes(cut, member.genome)
        assert member.total == cut.quality(member.genome)
    costs, totals = [m.cost for m in found], [m.total for m in found]
    assert costs == sorted(set(costs))
    assert totals == sorted(set(totals), reverse=True)
    # Two roundings a gene, each by half a level at most, against the best member of the enumerated front.
    off = 5 * max(costs) / (cells // len(cut.space.genes) // 2)
    for cost, total in cut.truth:
        assert min(t for c, t in zip(costs, totals, strict=True) if c <= cost + off) <= total


@pytest.mark.parametrize("most", [2, 7])
def test_thinned_fronts_are_parts_of_the_whole(cut, most):
    whole = _maker(cut).fronts(cut.damages, MANY)
    some = _maker(cut).fronts(cut.damages, most)
    assert len(some) <= 3 * (most + 1) < len(whole)
    ends = {(m.cost, m.total) for m in (whole[0], whole[-1])}
    assert ends <= {(m.cost, m.total) for m in some}
    one = {base: kl for base, kl in _students(cut).items() if base == cut.space.dense()}
    members = {(m.cost, m.total) for m in _maker(cut, one).fronts(cut.damages, MANY)}
    kept = [(m.cost, m.total) for m in _maker(cut, one).fronts(cut.damages, most)]
    assert set(kept) <= members
    assert most // 2 <= len(kept) <= most + 1


def test_sizes_are_found_by_the_genes_of_the_student(cut):
    maker = _maker(cut, {cut.space.dense(): 0.0})
    narrow = cut.space.uniform(4, "rtn")
    assert maker.size_of(narrow).base == cut.space.dense()
    other = list(_students(cut))[1]
    assert maker.size_of(other) is None
    assert student_of(cut.problem, other) != student_of(cut.problem, narrow)
    assert [g.name for i, g in enumerate(cut.space.genes) if is_student_gene(cut.problem, i)] == [
        "student.blocks", "student.kv_heads", "student.ffn_channels",
    ]  # fmt: skip


# -- a problem whose front is known --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["additive", "paretune"])
def test_known_front_is_solved_exactly(cut, name):
    """Smaller students among the members; nothing is left to find when the sampler has no more ideas."""
    told, proposer = cut.search(find_proposer(name), seed=0, trials=len(cut.sizes))
    assert _front((o.values[1], o.values[0]) for o in told) == cut.truth
    assert proposer.propose(len(cut.sizes)) is None
    assert 20 < len(cut.truth) < len(told) < len(cut.sizes)


def test_a_long_front_is_thinned_evenly():
    """Proposals are members of the true front; skipped, while damage matters, are only ones within a step of cost."""
    problem = _problem(blocks=8, bits=(2, 3, 4, 16))
    costs, rest = additive_costs(problem.problem, "weight_bytes", problem.space.dense())
    truth = [(rest, 0.0)]
    for cost, damage in zip(costs, problem.damages, strict=True):
        # What is beaten among the first genes is beaten whatever the others are.
        choices = list(zip(cost.tolist(), damage.tolist(), strict=True))
        truth = _front((c + more, d + harm) for c, d in truth for more, harm in choices)
    told, _ = problem.search(find_proposer("additive"), seed=0, trials=MANY)
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
