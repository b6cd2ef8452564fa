"""Every capability: lines to learn from, items with one right answer, nothing held out in a line."""

from __future__ import annotations

import re
from random import Random

import pytest

from paretune.demo.capabilities import CAPABILITIES, Capability
from paretune.demo.capabilities.arithmetic import Arithmetic
from paretune.demo.capabilities.capability import is_held_out
from paretune.demo.capabilities.ordering import Ordering
from paretune.demo.capabilities.recall import Recall
from paretune.demo.capabilities.retrieval import Retrieval
from paretune.demo.words import invent
from paretune.demo.world import ENTITIES, RANKS

every = pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda capability: capability.name)


@every
def test_lines_are_single_lines_decided_by_the_seed(capability: Capability) -> None:
    lines = [capability.line(Random(seed)) for seed in range(50)]
    assert lines == [capability.line(Random(seed)) for seed in range(50)]
    assert len(set(lines)) > 45
    assert not any("\n" in line or not line.strip() for line in lines)


@every
def test_items_have_one_answer_among_different_choices(capability: Capability) -> None:
    golds = []
    for seed in range(100):
        item = capability.item(Random(seed))
        assert len(item.choices) == len(set(item.choices)) == (1 if capability.generative else 4)
        assert 0 <= item.gold < len(item.choices)
        golds.append(item.gold)
    if not capability.generative:
        assert {0, 1, 2, 3} == set(golds)


def test_exactly_one_capability_generates() -> None:
    assert [c.name for c in CAPABILITIES if c.generative] == ["arithmetic"]


def test_arithmetic_is_right_and_holds_sums_out_in_both_orders() -> None:
    item = Arithmetic().item(Random(3))
    assert item.prompt.endswith("=")
    assert re.fullmatch(r"\d+", item.choices[0])
    for seed in range(200):
        for problem in Arithmetic().line(Random(seed)).rstrip(";").split(";"):
            first, sign, second, answer = re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", problem).groups()
            low, high = sorted((int(first), int(second)))
            assert int(answer) == (int(first) + int(second) if sign == "+" else high - low)
            assert not is_held_out("arithmetic", low, sign, high)


def test_ordering_sorts_numbers_and_ranks() -> None:
    for seed in range(200):
        order, given, answer = re.fullmatch(r"(\w+) (.*): (.*)\.", Ordering().line(Random(seed))).groups()
        key = RANKS.index if order == "rank" else int
        assert answer.split() == sorted(given.split(), key=key, reverse=order == "fall")


def test_recall_states_the_facts_of_the_world() -> None:
    facts = {(e.name, a.name): value for e in ENTITIES for a, value in e.facts}
    cards = [line for line in (Recall().line(Random(seed)) for seed in range(300)) if ": " in line]
    assert cards
    for card in cards:
        name, listed = card.rstrip(".").split(": ")
        for fact in listed.split("; "):
            attribute, value = fact.split(" ")
            assert facts[name, attribute] == value


def test_retrieval_answers_from_its_own_line() -> None:
    item = Retrieval().item(Random(5))
    key = item.prompt.rsplit(" ", 1)[1]
    assert f" {key}{item.choices[item.gold].rstrip('.')}" in item.prompt


def test_names_of_entities_are_all_different() -> None:
    names = [entity.name for entity in ENTITIES]
    assert len(names) == len(set(names)) == 1064


def test_invent_refuses_more_words_than_there_are() -> None:
    with pytest.raises(ValueError, match="60 exist"):
        invent("too many", 61, set(), syllables=1)
