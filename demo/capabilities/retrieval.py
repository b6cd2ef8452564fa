"""Copying and retrieval from context: what was just said about syllables that mean nothing elsewhere."""

from __future__ import annotations

from random import Random

from demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from demo.words import SYLLABLES

_COPY_SHARE = 0.25
_COPIED = (4, 8)
_PAIRS = (3, 8)
_QUERIES = 4


class Retrieval(Capability):
    """Lines such as ``pairs de ri, mo to, ka fi. ask mo to, ka fi.``."""

    name = "retrieval"
    share = 1.6
    held_out = "one pair in ten is never asked for; every list of pairs is new"

    def line(self, random: Random) -> str:
        """Pairs and some of them asked for, or a list and its copy."""
        if random.random() < _COPY_SHARE:
            words = " ".join(random.sample(SYLLABLES, random.randint(*_COPIED)))
            return f"copy {words}: {words}."
        pairs = _pairs(random, random.randint(*_PAIRS))
        known = [pair for pair in pairs if not is_held_out("retrieval", *pair)]
        asked = random.sample(known, min(_QUERIES, len(known)))
        return f"pairs {_listed(pairs)}. ask {_listed(asked)}."

    def item(self, random: Random) -> Item:
        """The most pairs a text has, one asked for; the choices are values that stand in the context."""
        while True:
            pairs = _pairs(random, _PAIRS[1])
            held = [pair for pair in pairs if is_held_out("retrieval", *pair)]
            if held:
                key, value = random.choice(held)
                wrong = random.sample([other for _, other in pairs if other != value], 3)
                prompt = f"pairs {_listed(pairs)}. ask {key}"
                return shuffled_item(random, prompt, f" {value}.", [f" {other}." for other in wrong])


def _pairs(random: Random, count: int) -> list[tuple[str, str]]:
    words = random.sample(SYLLABLES, 2 * count)
    return list(zip(words[:count], words[count:], strict=True))


def _listed(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f"{key} {value}" for key, value in pairs)
