"""front.csv: the columns that are documented, numbers that come back, measured and predicted kept apart."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.reports.reading import read_front
from paretune.reports.table import cell, front_columns, front_rows, write_front_csv
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import RunError
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import FRONT_COLUMNS, FrontFile, Member


def read(path: Path) -> list[dict[str, str | float | None]]:
    """As anybody would: text where it is text, numbers, nothing where nothing stands."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = ("digest", "name", "kind", "on_front", "recommended")
    return [{k: v if k in texts else float(v) if v else None for k, v in row.items()} for row in rows]


def member(**measurements: Measurement) -> Member:
    return Member(
        digest=DENSE_CONFIG.digest,
        name="m",
        kind="searched",
        on_front=True,
        config=DENSE_CONFIG,
        measurements=measurements,
    )


def front(*members: Member) -> FrontFile:
    return FrontFile(
        objectives=("kl", "weight_bytes"),
        reference_point={},
        hypervolume=0.0,
        recommended="m",
        members=members,
    )


def test_columns_are_the_documented_ones_in_their_order(run: Path) -> None:
    columns = front_columns(read_front(run))
    assert columns == (
        *FRONT_COLUMNS,
        "kl_search",
        "ttft_s_predicted",
        "tpot_s_predicted",
        "energy_j_per_token_predicted",
        "task.agreement",
        "task.agreement_stderr",
        "task.arithmetic",
        "task.arithmetic_stderr",
        "task.ordering",
        "task.ordering_stderr",
        "task.recall",
        "task.recall_stderr",
        "task.retrieval",
        "task.retrieval_stderr",
        "kind",
        "on_front",
        "recommended",
    )


def test_a_row_says_what_it_is() -> None:
    dense = member().model_copy(update={"name": "dense", "kind": "dense", "on_front": False})
    found = [
        {name: row[name] for name in ("kind", "on_front", "recommended")}
        for row in front_rows(front(member(), dense))
    ]
    assert found == [
        {"kind": "searched", "on_front": "true", "recommended": "true"},
        {"kind": "dense", "on_front": "false", "recommended": "false"},
    ]


def test_columns_do_not_depend_on_the_order_of_members(run: Path) -> None:
    found = read_front(run)
    turned = found.model_copy(update={"members": found.members[::-1]})
    assert front_columns(found) == front_columns(turned)


def test_round_trip(run: Path, tmp_path: Path) -> None:
    found = read_front(run)
    path = write_front_csv(found, tmp_path / "front.csv")
    assert read(path) == front_rows(found)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_comes_back(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.mktemp("csv") / "front.csv"
    write_front_csv(front(member(kl=Measurement(value=value))), path)
    assert read(path)[0]["kl"] == value


def test_bytes_are_written_as_whole_numbers(tmp_path: Path) -> None:
    path = write_front_csv(
        front(member(weight_bytes=Measurement(value=7_477_760.0, unit="B"))), tmp_path / "f.csv"
    )
    with path.open() as file:
        assert next(csv.DictReader(file))["weight_bytes"] == "7477760"


def test_a_prediction_never_stands_in_a_measured_column() -> None:
    predicted = member(tpot_s=Measurement(value=0.002, unit="s", source="predicted"))
    assert cell(predicted, "tpot_s") is None
    assert cell(predicted, "tpot_s_predicted") == 0.002


def test_a_measurement_never_stands_in_a_predicted_column() -> None:
    measured = member(tpot_s=Measurement(value=0.002, unit="s"))
    assert cell(measured, "tpot_s") == 0.002
    assert cell(measured, "tpot_s_predicted") is None


def test_what_was_not_measured_is_empty(run: Path, tmp_path: Path) -> None:
    path = write_front_csv(read_front(run), tmp_path / "front.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["energy_j_per_token"] for row in rows} == {""}
    assert [row["task.recall"] for row in rows if row["name"].startswith("pruned")] == ["", ""]
    assert not any("nan" in row.values() or "None" in row.values() for row in rows)


def test_standard_errors_have_columns(run: Path) -> None:
    found = read_front(run).members[0]
    assert cell(found, "kl_stderr") == found.measurements["kl"].stderr
    assert cell(found, "task.recall_stderr") == found.measurements["task.recall"].stderr


def test_a_full_disk_leaves_what_was_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run / "front.csv"
    path.write_text("before")

    def full(descriptor: int) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_front_csv(read_front(run), path)
    assert path.read_text() == "before"
    assert sorted(p.name for p in run.iterdir()) == ["front.csv", "front.json", "records.jsonl", "run.json"]
