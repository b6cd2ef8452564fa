"""What every search measures first: names say what is in a configuration, and nothing is there twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search.baselines import marginals, probes, uniform_configurations
from paretune.spaces.choice import UNTOUCHED
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.patterns import LayerRule, Restrictions
from paretune.spaces.space import SearchSpace
from tests.fakes import FakeLegality, tiny_spec

UNIFORM = re.compile(r"uniform-(\d+)(?:-(rtn|hqq))?(?:-embedding(\d+))?(?:-kv(\d+))?")
LISTS = (uniform_configurations, probes, marginals)


def _space(legality=None, **restrictions):
    wanted = {
        "bits": (4, 8, 16),
        "embedding_bits": (8, 16),
        "group_size": 32,
        "methods": ("rtn",),
        **restrictions,
    }
    return SearchSpace(tiny_spec(blocks=2), legality or FakeLegality(), Restrictions(**wanted))


spaces = st.builds(
    _space,
    bits=st.sets(st.sampled_from((2, 3, 4, 8, 16)), min_size=1),
    embedding_bits=st.sets(st.sampled_from((4, 8, 16)), min_size=1),
    kv_bits=st.sets(st.sampled_from((8, 16)), min_size=1),
    methods=st.lists(st.sampled_from(("rtn", "hqq")), min_size=1, unique=True),
    sparsity=st.sampled_from(((0.0,), (0.0, 0.5))),
    group_size=st.sampled_from((32, 64, 128)),
)


def _names(found):
    return [entry.name for entry in found]


def _layers(space, point, kind):
    """Distinct choices of the groups of a kind."""
    pairs = zip(space.parameters, point, strict=True)
    return {
        parameter.choices[c]
        for parameter, c in pairs
        if parameter.group is not None and parameter.group.kind == kind
    }


def _changed(space, point):
    return [i for i, (a, b) in enumerate(zip(point, space.origin(), strict=True)) if a != b]


@settings(max_examples=40, deadline=None)
@given(spaces)
def test_every_entry_is_legal_new_and_named_once(space):
    dense = DENSE_CONFIG.digest
    for make in LISTS:
        found = make(space)
        digests = [space.decode(entry.point).digest for entry in found]
        assert dense not in digests
        assert len(set(digests)) == len(set(_names(found))) == len(found)
        assert all(space.ruling(entry.point) for entry in found)


@settings(max_examples=40, deadline=None)
@given(spaces)
def test_names_of_uniform_configurations_are_true(space):
    first = space.restrictions.methods[0]
    for entry in uniform_configurations(space):
        bits, method, outer, cache = UNIFORM.fullmatch(entry.name).groups()
        (inside,), (outside,) = (_layers(space, entry.point, kind) for kind in ("linear", "embedding"))
        assert (inside.weight.num_bits, inside.method) == (int(bits), method or first)
        assert inside.sparsity is None
        assert outside == UNTOUCHED if outer is None else outside.weight.num_bits == int(outer)
        assert outer is None or outside.method == inside.method
        assert space.decode(entry.point).kv.num_bits == int(cache or 16)
        assert space.pruned(entry.point).whole


@settings(max_examples=40, deadline=None)
@given(spaces)
def test_every_uniform_configuration_that_the_space_offers_is_there(space):
    """Widths below 16, methods, embedding widths and caches, less the dense model itself."""
    rules = space.restrictions
    offered = {
        space.decode(point).digest
        for bits in rules.bits
        for method in rules.methods
        for outer in rules.embedding_bits
        for cache in rules.kv_bits
        if bits < 16 and (point := space.uniform(bits, method, outer, cache)) is not None
    }
    found = {space.decode(entry.point).digest for entry in uniform_configurations(space)}
    assert found == offered - {DENSE_CONFIG.digest}


@settings(max_examples=40, deadline=None)
@given(spaces)
def test_marginals_change_one_group_at_the_three_smallest_widths(space):
    found: dict[int, list] = {}
    for entry in marginals(space):
        (index,) = _changed(space, entry.point)
        choice = space.parameters[index].choices[entry.point[index]]
        assert entry.name == f"marginal-{space.parameters[index].name}-{choice.name}"
        found.setdefault(index, []).append(choice)
    for index in space.layer_parameters:
        plain = [
            c for c in space.parameters[index].choices
            if c.sparsity is None and not c.weight.dense and c.method == space.restrictions.methods[0]
        ]  # fmt: skip
        three = sorted(plain, key=lambda c: c.weight.num_bits)[:3]
        dense = space.parameters[index].choices[space.origin()[index]]
        assert found.get(index, []) == [c for c in three if c != dense]
    cache = space.index("kv")
    assert found.get(cache, []) == list(space.parameters[cache].choices[1:])


@settings(max_examples=40, deadline=None)
@given(spaces)
def test_probes_are_pruned_sizes_and_zeros(space):
    for entry in probes(space):
        pruned = space.pruned(entry.point)
        inside = _layers(space, entry.point, "linear")
        width = re.search(r"-uniform-(\d)$", entry.name)
        if entry.name.startswith("pruned-"):
            assert entry.name.removeprefix("pruned-").startswith(pruned.name)
            assert not pruned.whole
            assert not any(choice.sparsity for choice in inside)
        else:
            assert entry.name.startswith("sparse-50")
            assert pruned.whole
            assert {choice.sparsity.fraction for choice in inside} == {0.5}
            assert {choice.weight.num_bits for choice in inside} == {int(width[1]) if width else 16}
        if width:
            assert {choice.weight.num_bits for choice in inside} == {int(width[1])}


def test_golden_names_of_uniform_configurations():
    found = uniform_configurations(_space(bits=(4, 16), methods=("rtn", "hqq")))
    assert _names(found) == [
        "uniform-4",
        "uniform-4-kv8", "uniform-4-embedding8", "uniform-4-embedding8-kv8",
        "uniform-4-hqq", "uniform-4-hqq-kv8", "uniform-4-hqq-embedding8", "uniform-4-hqq-embedding8-kv8",
    ]  # fmt: skip


def test_plain_ones_come_first():
    found = _names(uniform_configurations(_space(methods=("hqq", "rtn"), bits=(2, 4, 8))))
    assert found[:3] == ["uniform-2", "uniform-4", "uniform-8"]
    assert len(found) > 3
    assert not any(re.fullmatch(r"uniform-\d", name) for name in found[3:])


def test_golden_names_of_probes():
    found = probes(_space(kv_heads=(1,), ffn_channels=(128,), blocks=(1,), bits=(4, 16)))
    assert _names(found) == [
        "pruned-blocks1", "pruned-blocks1-uniform-4",
        "pruned-kvheads1", "pruned-kvheads1-uniform-4",
        "pruned-ffn128", "pruned-ffn128-uniform-4",
        "sparse-50", "sparse-50-uniform-4",
    ]  # fmt: skip


def test_pruned_sizes_that_refuse_a_format_are_probed_without_it():
    """A group of 64 does not divide 160 channels."""
    space = _space(group_size=64, ffn_channels=(192, 160), kv_heads=(2,), blocks=(2,), sparsity=(0.0,))
    assert _names(probes(space)) == [
        "pruned-ffn192", "pruned-ffn192-uniform-8", "pruned-ffn192-uniform-4", "pruned-ffn160",
    ]  # fmt: skip


def test_zeros_must_be_offered_by_every_group():
    rule = LayerRule(pattern="blocks.0.down", sparsity=(0.0,))
    assert any(name.startswith("sparse") for name in _names(probes(_space())))
    assert not any(name.startswith("sparse") for name in _names(probes(_space(rules=(rule,)))))


def test_widths_must_be_offered_by_every_group():
    space = _space(rules=(LayerRule(pattern="blocks.0.down", bits=(8, 16)),), kv_bits=(16,))
    assert _names(uniform_configurations(space)) == ["uniform-8", "uniform-8-embedding8"]
    named = _names(marginals(space))
    assert "marginal-blocks.0.down-int8-g32/rtn" in named
    assert "marginal-blocks.0.down-int4-g32/rtn" not in named
    assert "marginal-blocks.1.down-int4-g32/rtn" in named


@pytest.mark.parametrize("make", LISTS)
def test_the_same_space_gives_the_same_list(make):
    assert make(_space()) == make(_space())


def test_a_space_of_the_dense_model_alone_has_none():
    space = _space(
        bits=(16,), embedding_bits=(16,), sparsity=(0.0,), kv_bits=(16,), kv_heads=(2,), ffn_channels=(256,),
        blocks=(2,),
    )  # fmt: skip
    assert [make(space) for make in LISTS] == [[], [], []]


def test_marginals_have_no_zeros():
    """Where every format inside the blocks has zeros, only embedding and cache are left."""
    assert _names(marginals(_space(sparsity=(0.5,)))) == [
        "marginal-embedding-int8-g32/rtn",
        "marginal-kv-kv8",
    ]


def test_marginals_are_by_the_best_method_that_a_group_is_offered():
    rule = LayerRule(pattern="blocks.1.down", methods=("hqq",))
    found = _names(marginals(_space(methods=("rtn", "hqq"), rules=(rule,))))
    assert "marginal-blocks.0.down-int4-g32/rtn" in found
    assert "marginal-blocks.1.down-int4-g32-asym/hqq" in found
    found = _names(marginals(_space(methods=("rtn", "hqq")), {4: ["nf4/none", "hqq", "rtn"]}))
    assert "marginal-blocks.0.down-int4-g32-asym/hqq" in found
    assert "marginal-blocks.0.down-int8-g32/rtn" in found


def test_uniform_configurations_say_what_they_are_made_of():
    """One is plain of every width, also where neither embedding nor cache may stay as they are."""
    for space in (_space(methods=("rtn", "hqq")), _space(bits=(2, 4), embedding_bits=(4, 8), kv_bits=(8,))):
        made = [entry.uniform for entry in uniform_configurations(space)]
        assert len({m.model_dump_json() for m in made}) == len(made)
        assert sorted(m.bits for m in made if m.plain) == sorted({m.bits for m in made})
        for entry in uniform_configurations(space):
            (inside,) = _layers(space, entry.point, "linear")
            (outside,) = _layers(space, entry.point, "embedding")
            cache = space.decode(entry.point).kv.num_bits
            found = (inside.weight.num_bits, inside.kind, outside.weight.num_bits, cache)
            assert found == (
                entry.uniform.bits,
                entry.uniform.method,
                entry.uniform.embedding_bits,
                entry.uniform.kv_bits,
            )


def test_every_share_of_zeros_is_probed_at_the_widest_width():
    found = [name for name in _names(probes(_space(sparsity=(0.0, 0.25, 0.5)))) if name.startswith("sparse")]
    assert found == ["sparse-25", "sparse-50", "sparse-50-uniform-8", "sparse-50-uniform-4"]
    found = [name for name in _names(probes(_space(sparsity=(0.0, 0.25)))) if name.startswith("sparse")]
    assert found
    assert all(name.startswith("sparse-25") for name in found)
