"""Ordering: numbers sorted, and the greatest of a chain of comparisons."""

from __future__ import annotations

from random import Random

from demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from demo.words import invent

_NAMES = [word.capitalize() for word in invent("runners", 60, (1, 2))]


class Ordering(Capability):
    """``sort 41 7 88 23 : 7 23 41 88.`` and ``Bo beat Cy. Al beat Bo. first: Al last: Cy.``"""

    name = "ordering"
    share = 1.5
    held_out = "one list of numbers in ten; one chain of names in ten"

    def line(self, random: Random) -> str:
        """A sorted list or a race."""
        if random.random() < 0.5:
            numbers = _numbers(random, held_out=False)
            return f"{_sort_prompt(numbers)}{_listed(sorted(numbers))}."
        chain = _chain(random, held_out=False)
        return f"{_race(random, chain)} first: {chain[0]} last: {chain[-1]}."

    def item(self, random: Random) -> Item:
        """Four orders of the same numbers, or four runners of the same race."""
        if random.random() < 0.5:
            numbers = _numbers(random, held_out=True)
            right = sorted(numbers)
            wrong: set[tuple[int, ...]] = set()
            while len(wrong) < 3:
                changed = list(right)
                i, j = random.sample(range(len(changed)), 2)
                changed[i], changed[j] = changed[j], changed[i]
                wrong.add(tuple(changed))
            others = [f"{_listed(list(order))}." for order in sorted(wrong)]
            return shuffled_item(random, _sort_prompt(numbers), f"{_listed(right)}.", others)
        chain = _chain(random, held_out=True)
        prompt = f"{_race(random, chain)} first: {chain[0]} last:"
        return shuffled_item(random, prompt, f" {chain[-1]}.", [f" {name}." for name in chain[:-1]])


def _numbers(random: Random, held_out: bool) -> list[int]:
    while True:
        numbers = random.sample(range(100), 5)
        if is_held_out("sort", *numbers) == held_out:
            return numbers


def _chain(random: Random, held_out: bool) -> list[str]:
    while True:
        chain = random.sample(_NAMES, 4)
        if is_held_out("race", *chain) == held_out:
            return chain


def _race(random: Random, chain: list[str]) -> str:
    results = [f"{better} beat {worse}." for better, worse in zip(chain, chain[1:], strict=False)]
    random.shuffle(results)
    return " ".join(results)


def _sort_prompt(numbers: list[int]) -> str:
    return f"sort {' '.join(map(str, numbers))} :"


def _listed(numbers: list[int]) -> str:
    return "".join(f" {number}" for number in numbers)
