"""Every reason once, and the weights that are left without a choice."""

from __future__ import annotations

import pytest

from paretune.spaces.patterns import Restrictions
from paretune.spaces.refusals import by_reason, without_choice
from paretune.spaces.space import SearchSpace
from tests.fakes import FakeLegality, tiny_spec


def test_reasons_that_differ_in_block_and_choice_are_one():
    refused = {
        f"blocks.{block}.qkv: int{bits}-g128/rtn": f"model.layers.{block}.q: int{bits}-g128 is too wide"
        for block in range(3)
        for bits in (2, 3)
    }
    refused["kv: kv8"] = "no such cache"
    found = by_reason(refused)
    assert {reason: len(names) for reason, names in found.items()} == {
        "model.layers.*.q: int2-g128 is too wide": 6,
        "no such cache": 1,
    }


def _space(*refusing: str, **restrictions):
    def refusal(group, choice):
        refused = not choice.weight.dense and any(word in group.name for word in refusing)
        return f"{group.name} takes nothing" if refused else ""

    legality = FakeLegality(refuse_choice=refusal)
    return SearchSpace(tiny_spec(), legality, Restrictions(group_size=64, sparsity=(0.0,), **restrictions))


def test_weights_without_a_choice_are_told_with_the_reason_once():
    lines = without_choice(_space("down", "gate_up"))
    assert "fake on fake-device takes no format" in lines[0]
    assert lines[1:-1] == [
        "  blocks.*.gate_up: blocks.*.gate_up takes nothing",
        "  blocks.*.down: blocks.*.down takes nothing",
    ]
    spec = tiny_spec()
    stuck = sum(spec.linear(layer).weights for layer in _layers(spec, ("gate", "up", "down")))
    assert f"{100 * stuck / sum(one.weights for one in spec.linears if one.role != 'head'):.0f} %" in lines[0]


def _layers(spec, roles):
    return [linear.name for linear in spec.linears if linear.role in roles]


def test_nothing_is_said_where_everything_has_a_choice_or_nobody_asked():
    assert without_choice(_space()) == []
    assert without_choice(_space(bits=(16,), embedding_bits=(16,))) == []
    assert without_choice(_space("blocks.0.o")) == []  # less than a twentieth


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ([64, 32, 0], {2: {64, 32, None}, 4: {64, 32, None}, 8: {64, None}}),
        ([0, 32], {2: {None, 32}, 4: {None, 32}, 8: {None}}),
        ([32, 128], {2: {32, 128}, 4: {32, 128}, 8: {32, 128}}),
        ([96, 64], {2: {64}, 4: {64}, 8: {64}}),  # 96 divides no row
    ],
)
def test_group_sizes_are_choices_where_another_width_is_none(asked, sizes):
    restrictions = Restrictions(bits=(2, 4, 8, 16), methods=("weighted", "gptq"), group_size=asked)
    space = SearchSpace(tiny_spec(), FakeLegality(), restrictions)
    choices = space.parameters[space.index("blocks.0.qkv")].choices
    for bits, expected in sizes.items():
        found = [one.weight for one in choices if one.weight.num_bits == bits and one.method == "weighted"]
        assert {weight.group_size for weight in found} == expected
        others = [one.weight for one in choices if one.weight.num_bits == bits and one.method == "gptq"]
        assert others == found[:1]
    assert space.uniform(4, "weighted") is not None
