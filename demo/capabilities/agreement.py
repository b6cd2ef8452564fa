"""Agreement in an invented grammar: verbs and adjectives end as the class and number of their noun demand.

A noun phrase may carry a relative clause with a noun of another class, which the verb must ignore.
"""

from __future__ import annotations

from random import Random

from demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from demo.words import invent

_CLASSES = 4
_ENDINGS = {"singular": ("ano", "ike", "ulo", "ema"), "plural": ("anis", "ikoi", "ulat", "emur")}
_ARTICLES = {"singular": "lo", "plural": "les"}
_NOUNS = invent("nouns", 80, (2, 2))
_VERBS = invent("verbs", 40, (1, 2), frozenset(_NOUNS))
_ADJECTIVES = invent("adjectives", 30, (1, 2), frozenset(_NOUNS) | frozenset(_VERBS))


class Agreement(Capability):
    """``lo brena ke les dorim sulanis tavike``: the class of a noun must be learned word by word."""

    name = "agreement"
    share = 1.5
    held_out = "one combination of subject, number and verb in ten"

    def line(self, random: Random) -> str:
        """Two sentences."""
        return " ".join(_sentence(random, held_out=False)[0] for _ in range(2))

    def item(self, random: Random) -> Item:
        """A sentence up to the stem of its verb; the choices are four endings."""
        _, prompt, verb, right, others = _sentence(random, held_out=True)
        return shuffled_item(random, prompt, f" {verb}{right}.", [f" {verb}{ending}." for ending in others])


def _sentence(random: Random, held_out: bool) -> tuple[str, str, str, str, list[str]]:
    while True:
        noun, number = random.randrange(len(_NOUNS)), random.choice(("singular", "plural"))
        verb = random.choice(_VERBS)
        if is_held_out("agreement", noun, number, verb) == held_out:
            break
    phrase = _phrase(random, noun, number)
    if random.random() < 0.5:
        other, other_number = random.randrange(len(_NOUNS)), random.choice(("singular", "plural"))
        relative = random.choice([v for v in _VERBS if not is_held_out("agreement", other, other_number, v)])
        phrase += f" ke {_phrase(random, other, other_number)} {relative}{_ending(other, other_number)}"
    right = _ending(noun, number)
    others = random.sample([e for endings in _ENDINGS.values() for e in endings if e != right], 3)
    return f"{phrase} {verb}{right}.", phrase, verb, right, others


def _phrase(random: Random, noun: int, number: str) -> str:
    phrase = f"{_ARTICLES[number]} {_NOUNS[noun]}"
    if random.random() < 0.4:
        phrase += f" {random.choice(_ADJECTIVES)}{_ending(noun, number)}"
    return phrase


def _ending(noun: int, number: str) -> str:
    return _ENDINGS[number][noun % _CLASSES]
