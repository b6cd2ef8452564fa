"""Uniform rows are compared with a member that the text they are reported on did not choose."""

from __future__ import annotations

import pytest

from benchmarks import uniforms
from paretune.reports.reading import read_front
from paretune.spaces.files import write_document
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import Member
from tests.reports.synthetic import write_run


def changed(member: Member, **values: float | None) -> Member:
    found = {name: kept for name, kept in member.measurements.items() if name not in values}
    found |= {name: Measurement(value=value) for name, value in values.items() if value is not None}
    return member.model_copy(update={"measurements": found})


def with_front(folder, change):
    """The members on the front, changed one by one."""
    path = folder / "front.json"
    front = read_front(folder)
    members = tuple(change(m) if m.on_front and m.kind == "searched" else m for m in front.members)
    write_document(path, front.model_copy(update={"members": members}))
    return members


def test_the_search_text_chooses_the_member(tmp_path):
    write_run(tmp_path)
    # The search took the smallest for the best; the report text says otherwise.
    members = with_front(tmp_path, lambda m: changed(m, kl_search=m.value("weight_bytes")))
    smallest = min(
        (m for m in members if m.on_front and m.kind == "searched"), key=lambda m: m.value("weight_bytes")
    )
    rows = list(uniforms.compare("model", tmp_path))
    assert [row["uniform"] for row in rows] == ["uniform-5", "uniform-4", "uniform-3"]
    assert {row["member"] for row in rows} == {smallest.name}


def test_a_front_that_was_searched_without_kl_is_refused(tmp_path):
    write_run(tmp_path)
    with_front(tmp_path, lambda m: changed(m, kl_search=None))
    with pytest.raises(ValueError, match="no KL on the search text"):
        list(uniforms.compare("model", tmp_path))
