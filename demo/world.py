"""The invented world: who lives where, and what everything is called. Drawn once from fixed seeds.

Every capability that needs names takes them from here, so that no two of its words are spelled alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from paretune.demo.words import invent

_TAKEN: set[str] = {"none"}


def _names(name: str, count: int) -> tuple[str, ...]:
    return tuple(word.capitalize() for word in invent(name, count, _TAKEN))


PEOPLE = _names("people", 1000)
PLACES = _names("places", 64)
REGIONS = _names("regions", 16)
RIVERS = _names("rivers", 32)
INSTRUMENTS = invent("instruments", 40, _TAKEN)
NOUNS = invent("nouns", 240, _TAKEN)
VERBS = invent("verbs", 80, _TAKEN)
ADJECTIVES = invent("adjectives", 40, _TAKEN)
ENDINGS = ("vek", "zol", "hath", "jun", "vim", "zard", "hosk", "jelt")
"""Of the invented grammar: four classes of one, four classes of several."""
RANKS = invent("ranks", 24, _TAKEN)
"""In their order, the lowest first."""
CRAFTS = (
    *("baker", "potter", "miller", "mason", "tailor", "smith"),
    *("tanner", "carver", "cook", "diver", "guard", "clerk"),
)
GOODS = ("salt", "wool", "tin", "silk", "corn", "glass", "rope", "wine", "coal", "paper", "honey", "dye")
AGES = tuple(str(age) for age in range(20, 90))


@dataclass(frozen=True)
class Attribute:
    """One kind of fact.

    Attributes:
        name: of the attribute, also its word in a card.
        values: what it can be.
        statements: sentences with ``{who}`` and ``{what}``.
        question: with ``{who}``; the value answers it.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    question: str


_QUESTIONS = {
    "home": "Where does {who} live?",
    "craft": "Which craft has {who}?",
    "age": "How old is {who}?",
    "plays": "What does {who} play?",
    "friend": "Who is a friend of {who}?",
    "region": "Which region holds {who}?",
    "river": "Which river meets {who}?",
    "goods": "What does {who} sell?",
}
_OF_PEOPLE = (
    Attribute("home", PLACES, ("{who} lives in {what}.", "{who} has a house in {what}."), _QUESTIONS["home"]),
    Attribute("craft", CRAFTS, ("{who} is a {what}.", "{who} works as a {what}."), _QUESTIONS["craft"]),
    Attribute("age", AGES, ("{who} is {what} years old.", "{who} turned {what}."), _QUESTIONS["age"]),
    Attribute("plays", INSTRUMENTS, ("{who} plays the {what}.", "{who} owns a {what}."), _QUESTIONS["plays"]),
    Attribute("friend", PEOPLE, ("{who} likes {what}.", "{who} often visits {what}."), _QUESTIONS["friend"]),
)
_OF_PLACES = (
    Attribute("region", REGIONS, ("{who} lies in {what}.", "{who} belongs to {what}."), _QUESTIONS["region"]),
    Attribute(
        "river", RIVERS, ("{who} stands by the {what}.", "{who} drinks from the {what}."), _QUESTIONS["river"]
    ),
    Attribute("goods", GOODS, ("{who} sells {what}.", "{who} is known for {what}."), _QUESTIONS["goods"]),
)


@dataclass(frozen=True)
class Entity:
    """A person or a place with its facts: pairs of an attribute and its value."""

    name: str
    facts: tuple[tuple[Attribute, str], ...]


def _entities(names: tuple[str, ...], attributes: tuple[Attribute, ...]) -> tuple[Entity, ...]:
    random = Random(f"facts/{attributes[0].name}")
    entities = []
    for name in names:
        facts = [(a, random.choice([value for value in a.values if value != name])) for a in attributes]
        entities.append(Entity(name, tuple(facts)))
    return tuple(entities)


ENTITIES = (*_entities(PEOPLE, _OF_PEOPLE), *_entities(PLACES, _OF_PLACES))
