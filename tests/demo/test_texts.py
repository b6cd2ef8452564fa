"""The committed texts and items are what the generator writes, and nothing leaks between them."""

from __future__ import annotations

import json
import re
from itertools import combinations

import pytest

from paretune import demo
from paretune.demo.capabilities import CAPABILITIES, Capability
from paretune.demo.generate import END_OF_TEXT, ITEMS, TEXT_DOCUMENTS, documents, ended, items

TRAINING_SAMPLE = 3000


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    found = {name: list(documents(name, count)) for name, count in TEXT_DOCUMENTS.items()}
    return found | {"train": list(documents("train", TRAINING_SAMPLE))}


@pytest.mark.parametrize("name", TEXT_DOCUMENTS)
def test_committed_texts_are_regenerated_byte_for_byte(name: str, texts: dict[str, list[str]]) -> None:
    written = (demo.TEXTS / f"{name}.txt").read_text(encoding="utf-8")
    assert written == "".join(map(ended, texts[name]))
    assert written.count(END_OF_TEXT) == TEXT_DOCUMENTS[name]


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda capability: capability.name)
def test_committed_items_are_regenerated(capability: Capability) -> None:
    lines = (demo.TASKS / f"demo_{capability.name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == items(capability)
    assert len(lines) == ITEMS >= 200


def test_texts_and_training_share_no_document(texts: dict[str, list[str]]) -> None:
    for first, second in combinations(texts.values(), 2):
        assert not set(first) & set(second)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda capability: capability.name)
def test_no_text_holds_an_item(capability: Capability, texts: dict[str, list[str]]) -> None:
    everything = "\n".join(document for found in texts.values() for document in found)
    for item in items(capability):
        if capability.name == "arithmetic":
            # Told apart from the end of a longer number only where it occurs at all: a search by pattern is slow.
            found = item["prompt"] in everything
            assert not (found and re.search(rf"(?<!\d){re.escape(item['prompt'])}", everything))
        else:
            assert item["prompt"] + item["answer"] not in everything
        if capability.name == "recall":
            assert item["prompt"] not in everything


def test_a_document_can_be_made_without_those_before_it() -> None:
    assert list(documents("train", 3, start=5)) == list(documents("train", 8))[5:]
