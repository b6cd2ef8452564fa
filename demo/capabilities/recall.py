"""Facts about invented people and places: learned as statements, asked as questions."""

from __future__ import annotations

from random import Random

from paretune.demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from paretune.demo.world import ENTITIES, Attribute, Entity

_SENTENCES = 3
_QUESTION_SHARE = 0.35
_CARD_SHARE = 0.3


class Recall(Capability):
    """``Where does Mira live? Tolu.`` after reading ``Mira lives in Tolu.`` and the like in training."""

    name = "recall"
    share = 5.0
    held_out = "the question about one fact in ten; the fact itself is stated in training and in the texts"

    def line(self, random: Random) -> str:
        """All facts about one entity, or sentences and answered questions about several."""
        if random.random() < _CARD_SHARE:
            entity = random.choice(ENTITIES)
            facts = random.sample(entity.facts, len(entity.facts))
            listed = "; ".join(f"{attribute.name} {value}" for attribute, value in facts)
            return f"{entity.name}: {listed}."
        return " ".join(_sentence(random) for _ in range(_SENTENCES))

    def item(self, random: Random) -> Item:
        """A question that no text asks; the choices are values of the same attribute."""
        while True:
            entity, attribute, value = _fact(random)
            if _question_held_out(entity, attribute):
                wrong = random.sample([other for other in attribute.values if other != value], 3)
                prompt = attribute.question.format(who=entity.name)
                return shuffled_item(random, prompt, f" {value}.", [f" {other}." for other in wrong])


def _sentence(random: Random) -> str:
    entity, attribute, value = _fact(random)
    if random.random() < _QUESTION_SHARE and not _question_held_out(entity, attribute):
        return f"{attribute.question.format(who=entity.name)} {value}."
    return random.choice(attribute.statements).format(who=entity.name, what=value)


def _fact(random: Random) -> tuple[Entity, Attribute, str]:
    entity = random.choice(ENTITIES)
    return entity, *random.choice(entity.facts)


def _question_held_out(entity: Entity, attribute: Attribute) -> bool:
    return is_held_out("recall", entity.name, attribute.name)
