"""Invented words: syllables drawn with a fixed seed, so that every run of the generator knows the same world."""

from __future__ import annotations

from random import Random

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ei")
_CODAS = ("", "", "l", "m", "n", "r", "s", "th")


def invent(seed: str, count: int, syllables: tuple[int, int] = (2, 3), avoid: frozenset[str] = frozenset()) -> list[str]:
    """``count`` different words of so many syllables.

    Args:
        seed: names the list; the same seed gives the same words.
        count: how many.
        syllables: least and most.
        avoid: words that are taken.
    """
    random = Random(seed)
    words: dict[str, None] = {}
    while len(words) < count:
        parts = [
            random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS)
            for _ in range(random.randint(*syllables))
        ]
        word = "".join(parts)
        if word not in avoid:
            words[word] = None
    return list(words)
