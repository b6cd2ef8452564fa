"""Copying and retrieval from context: what was just said about syllables that mean nothing elsewhere."""

from __future__ import annotations

from random import Random

from paretune.demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from paretune.demo.words import SYLLABLES

_LABELS = SYLLABLES[::2]
_COPY_SHARE = 0.2
_COPIED = (2, 8)
_PAIRS = (2, 8)
_QUERIES = 9


class Retrieval(Capability):
    """Lines such as ``pairs de ri, mo to, ka fi. ask mo to, ka fi.``."""

    name = "retrieval"
    share = 1.7
    held_out = "one list of pairs in ten; nearly every list is new"

    def line(self, random: Random) -> str:
        """Pairs and some of them asked for, or a list and its copy."""
        if random.random() < _COPY_SHARE:
            words = " ".join(random.sample(_LABELS, random.randint(*_COPIED)))
            return f"copy {words}: {words}."
        pairs = _pairs(random, random.randint(*_PAIRS), held_out=False)
        return f"pairs {_listed(pairs)}. ask {_listed(random.choices(pairs, k=_QUERIES))}."

    def item(self, random: Random) -> Item:
        """The most pairs a text has, one asked for; the choices are values that stand in the context."""
        pairs = _pairs(random, _PAIRS[1], held_out=True)
        key, value = random.choice(pairs)
        wrong = random.sample([other for _, other in pairs if other != value], 3)
        prompt = f"pairs {_listed(pairs)}. ask {key}"
        return shuffled_item(random, prompt, f" {value}", [f" {other}" for other in wrong])


def _pairs(random: Random, count: int, held_out: bool) -> list[tuple[str, str]]:
    while True:
        words = random.sample(_LABELS, 2 * count)
        if is_held_out("retrieval", *words) == held_out:
            return list(zip(words[:count], words[count:], strict=True))


def _listed(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f"{key} {value}" for key, value in pairs)
