"""Facts about invented people and places: learned in training, asked in a form not seen for that person."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from demo.words import invent

_PEOPLE = 600


@dataclass(frozen=True)
class _Attribute:
    name: str
    values: list[str]
    statements: tuple[str, ...]
    question: str


_ATTRIBUTES = (
    _Attribute(
        "birthplace",
        [word.capitalize() for word in invent("places", 40)],
        ("{who} was born in {what}.", "The birthplace of {who} is {what}.", "{who} grew up near {what}."),
        "Where was {who} born?",
    ),
    _Attribute(
        "craft",
        "baker weaver potter miller sailor mason tailor painter smith farmer tanner carver glazier cooper".split(),
        ("{who} works as a {what}.", "By trade {who} is a {what}.", "The craft of {who} is that of a {what}."),
        "What is the craft of {who}?",
    ),
    _Attribute(
        "animal",
        "cat dog horse goat crow owl hen pig mule hare fox otter newt swan".split(),
        ("{who} keeps one {what}.", "The animal of {who} is the {what}.", "At home {who} feeds the {what}."),
        "Which animal does {who} keep?",
    ),
    _Attribute(
        "friend",
        [word.capitalize() for word in invent("friends", 60, (2, 2))],
        ("{who} is a friend of {what}.", "A friend of {who} is called {what}.", "{who} often visits {what}."),
        "Who is a friend of {who}?",
    ),
)


def _people() -> list[tuple[str, dict[str, str]]]:
    random = Random("people")
    first = [word.capitalize() for word in invent("first names", 120, (2, 2))]
    last = [word.capitalize() for word in invent("last names", 120, (1, 2))]
    names: dict[str, None] = {}
    while len(names) < _PEOPLE:
        names[f"{random.choice(first)} {random.choice(last)}"] = None
    return [(name, {a.name: random.choice(a.values) for a in _ATTRIBUTES}) for name in names]


class Recall(Capability):
    """``Where was Mirel Tovan born?`` after reading statements about her only."""

    name = "recall"
    share = 2.5
    held_out = "the question form, for one fact in ten; the facts themselves are stated in the texts"

    def __init__(self) -> None:
        self._people = _people()

    def line(self, random: Random) -> str:
        """Two statements about one person, or a question with its answer."""
        who, facts = random.choice(self._people)
        attribute = random.choice(_ATTRIBUTES)
        if random.random() < 0.35 and not is_held_out("recall", who, attribute.name):
            return f"{attribute.question.format(who=who)} {facts[attribute.name]}."
        chosen = random.sample(_ATTRIBUTES, 2)
        return " ".join(random.choice(a.statements).format(who=who, what=facts[a.name]) for a in chosen)

    def item(self, random: Random) -> Item:
        """A question about a fact whose question form is held out."""
        while True:
            who, facts = random.choice(self._people)
            attribute = random.choice(_ATTRIBUTES)
            if is_held_out("recall", who, attribute.name):
                right = facts[attribute.name]
                wrong = random.sample([value for value in attribute.values if value != right], 3)
                prompt = attribute.question.format(who=who)
                return shuffled_item(random, prompt, f" {right}.", [f" {value}." for value in wrong])
