"""Tries damage of one target, and counts what becomes of it."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.robustness.targets import Target


def tried(target: Target, contents: st.SearchStrategy[bytes], cases: int) -> tuple[Counter[str], list[str]]:
    """Outcomes of that many cases, the same every time, and words on those that must not be."""
    found: Counter[str] = Counter()
    faults: list[str] = []
    whole = target.read(target.good)

    @settings(
        max_examples=cases, database=None, derandomize=True, deadline=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(contents)
    def attempt(content: bytes) -> None:
        outcome, said = target.outcome(content, whole)
        found[outcome] += 1
        if outcome in ("wrong", "traceback"):
            faults.append(f"{target.kind}, {target.name}: {said} for {content[:200]!r}")

    attempt()
    assert target.outcome(target.good, whole)[0] == "accepted_right", target.name
    return found, faults
