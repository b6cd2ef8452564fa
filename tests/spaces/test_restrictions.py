"""Restrictions: bad values are refused with a remedy, the last matching rule wins."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

from paretune.spaces.errors import SpaceError
from paretune.spaces.groups import fused_groups
from paretune.spaces.patterns import LayerRule, Restrictions
from tests.fakes import tiny_spec

GROUPS = {group.name: group for group in fused_groups(tiny_spec())}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"bits": (7,)}, "weights of 7 bits: must be one of 2, 3, 4, 5, 6, 8, 16"),
        ({"bits": ()}, "no width for weights"),
        ({"embedding_bits": (1,)}, "weights of 1 bits"),
        (
            {"kv_bits": (3,)},
            "the key-value cache of 3 bits: at least one must be allowed, of 16, 8, 8-fp, 8-ggml, 4, 2",
        ),
        ({"kv_bits": ("4-fp",)}, "the key-value cache of 4-fp bits"),
        ({"kv_bits": ()}, "the key-value cache of no bits"),
        ({"sparsity": (1.0,)}, r"sparsity 1.0: must lie in \[0, 1\)"),
        ({"sparsity": (-0.1,)}, "sparsity -0.1"),
        ({"sparsity": (float("nan"),)}, "sparsity nan"),
        ({"sparsity": ()}, "no sparsity"),
        ({"sparsity": (0.3,), "sparsity_pattern": "2:4"}, "an N:M pattern here is half zeros"),
        ({"group_size": 100}, "group size 100: must be a multiple of 8"),
        ({"group_size": 0}, "group size 0: must be positive"),
        ({"group_size": -32}, "group size -32"),
        ({"methods": ()}, "must name quantizers"),
        ({"methods": ("none",)}, "must name quantizers"),
    ],
)
def test_bad_values(values, match):
    with pytest.raises(SpaceError, match=match) as caught:
        Restrictions(**values)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "must restrict something"),
        ({"bits": (7,)}, "weights of '\\*' of 7 bits"),
        ({"methods": ()}, "must name quantizers"),
        ({"sparsity": (2.0,)}, "sparsity 2.0"),
        ({"group_size": 12}, "group size 12"),
    ],
)
def test_bad_rules(values, match):
    with pytest.raises(SpaceError, match=match):
        LayerRule(pattern="*", **values)


def test_values_are_put_in_order():
    found = Restrictions(
        bits=(16, 4, 2, 4), kv_bits=(8, 16), sparsity=(0.5, 0.0), methods=("hqq", "rtn", "hqq")
    )
    assert found.bits == (2, 4, 16)
    assert found.kv_bits == (16, 8)
    assert found.sparsity == (0.0, 0.5)
    assert found.methods == ("hqq", "rtn")


def test_the_last_matching_rule_wins():
    restrictions = Restrictions(
        rules=(
            LayerRule(pattern="blocks.0.*", bits=(8, 16), methods=("rtn",)),
            LayerRule(pattern="*.down_proj", bits=(4,), group_size=0),
            LayerRule(pattern="embedding", bits=(16,)),
        )
    )
    assert restrictions.rule(GROUPS["blocks.0.qkv"]).bits == (8, 16)
    first_down = restrictions.rule(GROUPS["blocks.0.down"])
    assert (first_down.bits, first_down.methods, first_down.group_sizes) == ((4,), ("rtn",), (None,))
    assert restrictions.rule(GROUPS["blocks.1.down"]).methods == ("weighted", "hqq", "gptq")
    assert restrictions.rule(GROUPS["blocks.1.qkv"]).bits == restrictions.bits
    assert restrictions.rule(GROUPS["embedding"]).bits == (16,)


def test_what_lies_outside_the_blocks_is_not_pruned_and_has_widths_of_its_own():
    rule = Restrictions().rule(GROUPS["embedding"])
    assert rule.sparsity == (0.0,)
    assert rule.bits == (4, 6, 8, 16)


def test_the_schema_says_what_is_allowed():
    schema = TypeAdapter(Restrictions).json_schema()
    json.dumps(schema, allow_nan=False)
    properties = schema["properties"]
    assert properties["bits"]["items"]["enum"] == [2, 3, 4, 5, 6, 8, 16]
    assert properties["kv_bits"]["items"]["enum"] == [16, 8, "8-fp", "8-ggml", 4, 2]
    assert properties["sparsity"]["items"]["exclusiveMaximum"] == 1
    assert schema["additionalProperties"] is False
    assert all("description" in entry for entry in properties.values())


def test_json_round_trip():
    restrictions = Restrictions(rules=(LayerRule(pattern="*", bits=(4,)),), group_size=None)
    assert Restrictions.from_json(restrictions.to_json()) == restrictions
