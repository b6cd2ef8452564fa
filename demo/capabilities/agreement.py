"""Agreement in an invented grammar: verbs and adjectives end as class and number of their noun demand.

A noun's class must be learned word by word; its number stands in the article. A noun phrase may carry a
relative clause about a noun of another class, which the main verb must ignore.
"""

from __future__ import annotations

from random import Random

from paretune.demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from paretune.demo.world import ADJECTIVES, ENDINGS, NOUNS, VERBS

_ENDINGS = {"xo": ENDINGS[:4], "xe": ENDINGS[4:]}
"""By article (``xo`` one, ``xe`` several), then by the noun's class."""
_CLASSES = 4
_ADJECTIVE_SHARE = 0.3
_CLAUSE_SHARE = 0.5
_SENTENCES = 2


class Agreement(Capability):
    """``xo dela wa xe mopi rikevim tosuvek.``: the first noun gives the last verb its ending."""

    name = "agreement"
    share = 1.5
    held_out = "one combination of noun, number and verb in ten"

    def line(self, random: Random) -> str:
        """Some sentences."""
        sentences = []
        for _ in range(_SENTENCES):
            article, noun, verb = _draw(random, held_out=False)
            phrase, _ = _subject(random, article, noun)
            sentences.append(f"{phrase} {verb}{_ending(article, noun)}.")
        return " ".join(sentences)

    def item(self, random: Random) -> Item:
        """A sentence up to its last verb; the choices are that verb with four endings."""
        article, noun, verb = _draw(random, held_out=True)
        phrase, attractor = _subject(random, article, noun)
        right = _ending(article, noun)
        other_number = _ending("xe" if article == "xo" else "xo", noun)
        tempting = [e for e in dict.fromkeys((attractor, other_number)) if e not in ("", right)]
        rest = [ending for ending in ENDINGS if ending != right and ending not in tempting]
        wrong = tempting + random.sample(rest, 3 - len(tempting))
        return shuffled_item(random, phrase, f" {verb}{right}.", [f" {verb}{ending}." for ending in wrong])


def _draw(random: Random, held_out: bool) -> tuple[str, int, str]:
    while True:
        article, noun = random.choice(tuple(_ENDINGS)), random.randrange(len(NOUNS))
        verb = random.choice(VERBS)
        if is_held_out("agreement", article, noun, verb) == held_out:
            return article, noun, verb


def _subject(random: Random, article: str, noun: int) -> tuple[str, str]:
    """The noun phrase, and the ending that its relative clause tempts to (empty without one)."""
    phrase = _phrase(random, article, noun)
    if random.random() >= _CLAUSE_SHARE:
        return phrase, ""
    other_article, other, verb = _draw(random, held_out=False)
    ending = _ending(other_article, other)
    return f"{phrase} wa {_phrase(random, other_article, other)} {verb}{ending}", ending


def _phrase(random: Random, article: str, noun: int) -> str:
    phrase = f"{article} {NOUNS[noun]}"
    if random.random() < _ADJECTIVE_SHARE:
        phrase += f" {random.choice(ADJECTIVES)}{_ending(article, noun)}"
    return phrase


def _ending(article: str, noun: int) -> str:
    return _ENDINGS[article][noun % _CLASSES]
