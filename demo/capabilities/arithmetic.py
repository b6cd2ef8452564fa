"""Sums and differences of numbers below one hundred."""

from __future__ import annotations

from random import Random

from demo.capabilities.capability import Capability, Item, is_held_out

_LARGEST = 99


class Arithmetic(Capability):
    """``37 + 45 = 82.``: the model writes the answer itself."""

    name = "arithmetic"
    generative = True
    share = 1.5
    held_out = "one pair of numbers in ten, for each of + and -"

    def line(self, random: Random) -> str:
        """Three worked problems."""
        return " ".join(_worked(*_draw(random, held_out=False)) for _ in range(3))

    def item(self, random: Random) -> Item:
        """One problem; the answer is its only choice."""
        first, sign, second = _draw(random, held_out=True)
        return Item(f"{first} {sign} {second} =", (f" {_answer(first, sign, second)}",), 0)


def _draw(random: Random, held_out: bool) -> tuple[int, str, int]:
    while True:
        first, second = random.randint(0, _LARGEST), random.randint(0, _LARGEST)
        sign = random.choice("+-")
        if sign == "-" and first < second:
            first, second = second, first
        if is_held_out("arithmetic", first, sign, second) == held_out:
            return first, sign, second


def _answer(first: int, sign: str, second: int) -> int:
    return first + second if sign == "+" else first - second


def _worked(first: int, sign: str, second: int) -> str:
    return f"{first} {sign} {second} = {_answer(first, sign, second)}."
