"""Sums and differences of numbers below one hundred, digit by digit."""

from __future__ import annotations

from random import Random

from paretune.demo.capabilities.capability import Capability, Item, is_held_out

_LARGEST = 99
_PROBLEMS = 4


class Arithmetic(Capability):
    """``37+45=82;81-19=62;``: the model writes the answer itself."""

    name = "arithmetic"
    generative = True
    share = 1.7
    held_out = "one pair of numbers in ten for each of + and -; a+b and b+a are held out together"

    def line(self, random: Random) -> str:
        """Worked problems."""
        return "".join(_worked(*_draw(random, held_out=False)) for _ in range(_PROBLEMS))

    def item(self, random: Random) -> Item:
        """One problem; the answer is its only choice."""
        first, sign, second = _draw(random, held_out=True)
        return Item(f"{first}{sign}{second}=", (str(_answer(first, sign, second)),), 0)


def _draw(random: Random, held_out: bool) -> tuple[int, str, int]:
    while True:
        first, second = random.randint(0, _LARGEST), random.randint(0, _LARGEST)
        low, high = sorted((first, second))
        sign = random.choice("+-")
        if sign == "-":
            first, second = high, low
        if is_held_out("arithmetic", low, sign, high) == held_out:
            return first, sign, second


def _answer(first: int, sign: str, second: int) -> int:
    return first + second if sign == "+" else first - second


def _worked(first: int, sign: str, second: int) -> str:
    return f"{first}{sign}{second}={_answer(first, sign, second)};"
