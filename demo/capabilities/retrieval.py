"""Copying and retrieval from context: what was just said about words that mean nothing elsewhere."""

from __future__ import annotations

from random import Random

from demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from demo.world import LABELS

_COPY_SHARE = 0.25
_PAIRS = (4, 8)
_QUERIES = 3


class Retrieval(Capability):
    """Lines such as ``pairs dela rike, mopi tosu, kadu fini. mopi? tosu.``."""

    name = "retrieval"
    share = 1.3
    held_out = "one pair of words in ten; every list of pairs is new"

    def line(self, random: Random) -> str:
        """Pairs and some of them asked for, or a list and its copy."""
        if random.random() < _COPY_SHARE:
            words = " ".join(random.sample(LABELS, random.randint(4, 7)))
            return f"copy {words}: {words}."
        pairs = _pairs(random, random.randint(*_PAIRS))
        known = [pair for pair in pairs if not is_held_out("retrieval", *pair)]
        asked = random.sample(known, min(_QUERIES, len(known)))
        return " ".join([_listed(pairs), *(f"{key}? {value}." for key, value in asked)])

    def item(self, random: Random) -> Item:
        """The most pairs a text has, one asked for; the choices are values that stand in the context."""
        while True:
            pairs = _pairs(random, _PAIRS[1])
            held = [pair for pair in pairs if is_held_out("retrieval", *pair)]
            if held:
                key, value = random.choice(held)
                wrong = random.sample([other for _, other in pairs if other != value], 3)
                prompt = f"{_listed(pairs)} {key}?"
                return shuffled_item(random, prompt, f" {value}.", [f" {other}." for other in wrong])


def _pairs(random: Random, count: int) -> list[tuple[str, str]]:
    words = random.sample(LABELS, 2 * count)
    return list(zip(words[:count], words[count:], strict=True))


def _listed(pairs: list[tuple[str, str]]) -> str:
    return "pairs " + ", ".join(f"{key} {value}" for key, value in pairs) + "."
