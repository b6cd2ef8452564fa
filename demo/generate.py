"""The text generator: documents from a seed, and the held-out items of every capability.

``python -m paretune.demo.generate`` writes ``demo/text`` and ``demo/tasks/*.jsonl`` again, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from paretune.demo import TASKS, TEXTS
from paretune.demo.capabilities import CAPABILITIES, Capability

END_OF_TEXT = "<|endoftext|>"
TEXT_DOCUMENTS = {"calibration": 200, "search": 200, "report": 200, "benchmark": 200}
"""Documents of each text; each name is a seed of its own, and so is ``train``."""

ITEMS = 400
"""Items of each task."""

_LINES = (6, 12)


def document(random: Random) -> str:
    """One document: some lines, each of a random capability, in proportion to the capabilities' shares."""
    weights = [capability.share for capability in CAPABILITIES]
    chosen = random.choices(CAPABILITIES, weights, k=random.randint(*_LINES))
    return "\n".join(capability.line(random) for capability in chosen)


def documents(text: str, count: int, start: int = 0) -> Iterator[str]:
    """Documents ``start`` to ``start + count`` of a text; each draws from a seed of its own."""
    for number in range(start, start + count):
        yield document(Random(f"{text}/{number}"))


def ended(text: str) -> str:
    """A document with the mark that ends it, as it stands in a file and in training."""
    return f"{text}\n{END_OF_TEXT}"


def items(capability: Capability, count: int = ITEMS) -> list[dict[str, Any]]:
    """Held-out items, no two with the same prompt: ``prompt``, ``choices``, ``gold`` (index), ``answer``."""
    random = Random(f"items/{capability.name}")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        item = capability.item(random)
        answer = item.choices[item.gold]
        row = {"prompt": item.prompt, "choices": list(item.choices), "gold": item.gold, "answer": answer}
        found.setdefault(item.prompt, row)
    return list(found.values())


def write_texts(folder: Path) -> None:
    """Write the four texts; every document ends with ``<|endoftext|>``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in TEXT_DOCUMENTS.items():
        text = "".join(ended(text) for text in documents(name, count))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def write_items(folder: Path) -> None:
    """Write the items of every task, a JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for capability in CAPABILITIES:
        lines = "".join(json.dumps(item) + "\n" for item in items(capability))
        (folder / f"demo_{capability.name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write_texts(TEXTS)
    write_items(TASKS)
