"""Copying and retrieval from context: what was just said about one of several invented names."""

from __future__ import annotations

from random import Random

from demo.capabilities.capability import Capability, Item, is_held_out, shuffled_item
from demo.words import invent

_NAMES = invent("labels", 150, (1, 2))
_COLOURS = "red blue green white black brown pink grey gold violet".split()


class Retrieval(Capability):
    """``box dra: red. box vol: 47. ... box dra?`` with pairs that exist in this context alone."""

    name = "retrieval"
    share = 1.5
    held_out = "one pair of label and content in ten"

    def line(self, random: Random) -> str:
        """Some boxes, one of them asked for; or a list and its copy."""
        if random.random() < 0.3:
            words = " ".join(random.sample(_NAMES, random.randint(3, 6)))
            return f"copy {words} : {words}."
        boxes = _boxes(random, random.randint(3, 7))
        label = random.choice([label for label in boxes if not is_held_out("retrieval", label, boxes[label])] or [""])
        return f"{_described(boxes)} box {label}? {boxes[label]}." if label else _described(boxes)

    def item(self, random: Random) -> Item:
        """Six boxes; the choices are four contents that stand in the context."""
        while True:
            boxes = _boxes(random, 6)
            held = [label for label in boxes if is_held_out("retrieval", label, boxes[label])]
            if held:
                label = random.choice(held)
                wrong = random.sample([content for content in boxes.values() if content != boxes[label]], 3)
                prompt = f"{_described(boxes)} box {label}?"
                return shuffled_item(random, prompt, f" {boxes[label]}.", [f" {content}." for content in wrong])


def _boxes(random: Random, count: int) -> dict[str, str]:
    labels = random.sample(_NAMES, count)
    contents = random.sample([f"{colour} {number}" for colour in _COLOURS for number in range(10, 100)], count)
    return dict(zip(labels, contents, strict=True))


def _described(boxes: dict[str, str]) -> str:
    return " ".join(f"box {label}: {content}." for label, content in boxes.items())
