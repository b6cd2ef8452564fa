"""Ordering: numbers rising or falling, and invented ranks in the order that the world gives them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from paretune.demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from paretune.demo.world import RANKS

_NUMBERS = 5
_RANKS = 5
_ORDERS = ("rise", "fall", "rank")


class Ordering(Capability):
    """Lines such as ``rise 41 17 88 23 60: 17 23 41 60 88.``."""

    name = "ordering"
    share = 1.2
    held_out = "one list in ten, whatever the order of its members"

    def line(self, random: Random) -> str:
        """A list and the same list in order."""
        order, given = _draw(random, held_out=False)
        return f"{_prompt(order, given)}{_listed(_sorted(order, given))}"

    def item(self, random: Random) -> Item:
        """Four orders of the same list; the wrong ones have two members exchanged."""
        order, given = _draw(random, held_out=True)
        right = _sorted(order, given)
        wrong: set[str] = set()
        while len(wrong) < 3:
            changed = list(right)
            i, j = random.sample(range(len(changed)), 2)
            changed[i], changed[j] = changed[j], changed[i]
            wrong.add(_listed(changed))
        return shuffled_item(random, _prompt(order, given), _listed(right), sorted(wrong))


def _draw(random: Random, held_out: bool) -> tuple[str, list[str]]:
    while True:
        order = random.choice(_ORDERS)
        if order == "rank":
            given = random.sample(RANKS, _RANKS)
        else:
            given = [str(number) for number in random.sample(range(10, 100), _NUMBERS)]
        if is_held_out("ordering", *sorted(given)) == held_out:
            return order, given


def _sorted(order: str, given: Sequence[str]) -> list[str]:
    if order == "rank":
        return sorted(given, key=RANKS.index)
    return sorted(given, key=int, reverse=order == "fall")


def _prompt(order: str, given: Sequence[str]) -> str:
    return f"{order} {' '.join(given)}:"


def _listed(members: Sequence[str]) -> str:
    return f" {' '.join(members)}."
