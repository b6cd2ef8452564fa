"""Damaged input is refused with value, rule and remedy; damaged files of ours are refused, or repaired where a copy."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.robustness.damage import damaged, flipped
from tests.robustness.targets import targets
from tests.robustness.trying import tried

_CASES = 15
"""Of each file; ``benchmarks/faults.py`` tries ten thousand."""


def test_no_file_gives_a_traceback_or_another_answer(tmp_path):
    count, faults = 0, []
    for target in targets(tmp_path):
        found, said = tried(target, st.one_of(damaged(target.good), flipped(target.good)), _CASES)
        count += found.total()
        faults += said
    assert not faults, "\n".join(faults)
    assert count > 250


@pytest.mark.parametrize("name", ["records.jsonl", "front.json", "paretune.json"])
def test_what_is_read_from_other_bytes_would_be_noticed(tmp_path, name):
    """The harness itself: a reader that believes anything is told apart."""
    from dataclasses import replace

    target = next(target for target in targets(tmp_path) if target.name == name)
    believing = replace(target, read=lambda content: content)
    found, said = tried(believing, flipped(target.good), 20)
    assert found["wrong"] > 10
    assert said
    failing = replace(
        target, read=lambda content: content if content == target.good else content.index(b"\0")
    )
    assert tried(failing, flipped(target.good), 20)[0]["traceback"] > 10
