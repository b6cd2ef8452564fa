"""Invented words: open syllables drawn with a fixed seed, so that every run knows the same world.

Twelve consonants and five vowels give sixty syllables, each one token of the vocabulary; the endings of the
invented grammar use the other consonants, so they never melt into a stem.
"""

from __future__ import annotations

from random import Random

SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou")


def invent(name: str, count: int, taken: set[str], syllables: int = 2) -> tuple[str, ...]:
    """Draw words that nothing else in the world is called.

    Args:
        name: of the list; it is the seed, so the same name gives the same words.
        count: how many.
        taken: words that exist; the new ones are added.
        syllables: of each word.

    Returns:
        The words in lower case, each with its own spelling.

    Raises:
        ValueError: the syllables cannot make so many new words.
    """
    possible = len(SYLLABLES) ** syllables
    if count + len(taken) > possible:
        raise ValueError(f"{name}: {count} new words wanted, {possible} exist; allow more syllables")
    random = Random(f"words/{name}")
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(random.choice(SYLLABLES) for _ in range(syllables))
        if word not in taken:
            words[word] = None
    taken.update(words)
    return tuple(words)
