"""What is compared with what, and with which error."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.reports.answer import find_answer, speed_words
from paretune.reports.comparison import (
    best_member_within,
    best_uniform_within,
    cost_ratio,
    retention,
    smallest_uniform_as_good,
    uniforms,
)
from paretune.reports.latency import latency_error, latency_words
from paretune.reports.reading import read_front, read_run_folder
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import LatencyCheck, Member
from paretune.spaces.statistics import difference, measure, numbered


def kl(*windows: float) -> Measurement:
    return measure(windows, numbered(len(windows)), unit="nat").model_copy(update={"stderr": 0.1})


def row(name: str, kind: str = "searched", **values: float | Measurement) -> Member:
    measurements = {
        key: value if isinstance(value, Measurement) else Measurement(value=value)
        for key, value in values.items()
    }
    return Member.model_validate(
        {
            "digest": name,
            "name": name,
            "kind": kind,
            "on_front": True,
            "config": DENSE_CONFIG,
            "measurements": measurements,
        }
    )


def test_paired_difference_by_hand() -> None:
    found = difference(kl(3.0, 5.0, 4.0), kl(1.0, 2.0, 3.0))
    assert found.value == pytest.approx(2.0)
    assert found.stderr == pytest.approx(1.0 / math.sqrt(3))
    assert found.paired
    assert not found.clear  # 3.5 standard errors of three windows: Student's t asks for 4.3
    assert difference(kl(3.0, 5.1, 3.9, 4.0), kl(1.0, 3.0, 2.0, 2.1)).clear


def test_without_common_windows_errors_add() -> None:
    found = difference(kl(3.0, 5.0), Measurement(value=1.0, unit="nat", stderr=0.1))
    assert (found.value, found.paired) == (3.0, False)
    assert found.stderr == pytest.approx(math.hypot(0.1, 0.1))


def test_without_errors_nothing_is_clear() -> None:
    assert not difference(Measurement(value=5.0), Measurement(value=1.0)).clear


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=2, max_size=20))
def test_difference_is_antisymmetric(pairs: list[tuple[float, float]]) -> None:
    left, right = kl(*(a for a, _ in pairs)), kl(*(b for _, b in pairs))
    there, back = difference(left, right), difference(right, left)
    assert there.value == pytest.approx(-back.value)
    assert there.stderr == pytest.approx(back.stderr)


def test_uniform_rows_to_beat(run: Path) -> None:
    front = read_front(run)
    sizes = {member.name: member.value("weight_bytes") or 0.0 for member in uniforms(front)}
    assert list(sizes) == [f"uniform-{bits}" for bits in (2, 3, 4, 5, 6, 8)]
    assert best_uniform_within(front, sizes["uniform-4"]).name == "uniform-4"  # type: ignore[union-attr]
    assert best_uniform_within(front, sizes["uniform-4"] - 1).name == "uniform-3"  # type: ignore[union-attr]
    assert best_uniform_within(front, sizes["uniform-2"] - 1) is None
    levels = {member.name: member.value("kl") or 0.0 for member in uniforms(front)}
    assert smallest_uniform_as_good(front, levels["uniform-5"]).name == "uniform-5"  # type: ignore[union-attr]
    assert smallest_uniform_as_good(front, 0.0) is None


def test_members_to_beat_uniform_rows_with(run: Path) -> None:
    front = read_front(run)
    found = best_member_within(front, 2.1e6)
    assert found is not None
    assert found.kind == "searched"
    assert found.value("weight_bytes") <= 2.1e6  # type: ignore[operator]


def test_measured_is_never_divided_by_predicted() -> None:
    measured, predicted = row("a", tpot_s=2.0), row("b", tpot_s_predicted=1.0)
    assert cost_ratio(measured, predicted, "tpot_s") is None
    both = row("c", tpot_s=4.0, tpot_s_predicted=3.0)
    assert cost_ratio(measured, both, "tpot_s") == (0.5, False)
    assert cost_ratio(predicted, both, "tpot_s") == (pytest.approx(1 / 3), True)


def test_retention_by_hand() -> None:
    dense = row("dense", **{"task.x": Measurement(value=0.8, stderr=0.02)})
    kept = retention(row("a", **{"task.x": Measurement(value=0.6, stderr=0.03)}), dense, "x")
    assert kept is not None
    assert kept.ratio == pytest.approx(0.75)
    assert kept.stderr == pytest.approx(math.hypot(0.03, 0.75 * 0.02) / 0.8)
    assert kept.clear
    assert retention(row("a"), dense, "x") is None
    assert retention(dense, row("zero", **{"task.x": 0.0}), "x") is None


def test_retention_of_the_dense_model_is_exactly_one() -> None:
    dense = row("dense", **{"task.x": Measurement(value=0.8, stderr=0.02)})
    kept = retention(dense, dense, "x")
    assert kept is not None
    assert (kept.ratio, kept.stderr, kept.clear) == (1.0, 0.0, False)


def test_the_answer_names_its_rivals(run: Path) -> None:
    folder = read_run_folder(run)
    answer = find_answer(folder)
    assert answer.recommended is not None
    assert answer.recommended.name == folder.front.recommended
    assert answer.dense is not None
    assert answer.uniform is not None
    assert answer.uniform.value("weight_bytes") <= answer.recommended.value("weight_bytes")  # type: ignore[operator]
    assert answer.margin is not None
    assert answer.margin.paired
    assert answer.margin.value > 0


def test_latency_error_by_hand() -> None:
    checks = [("a", 1.1, 1.0), ("b", 1.8, 2.0), ("c", 3.0, 3.0)]
    found = latency_error(
        tuple(LatencyCheck(name=n, digest=n, predicted_s=p, measured_s=m) for n, p, m in checks)
    )
    assert found is not None
    assert found.median == pytest.approx(0.1)
    assert found.worst == pytest.approx(0.1)
    assert found.bias == pytest.approx(0.0)
    assert (found.ordered, found.pairs) == (1.0, 3)
    assert "order" not in latency_words(found), "three candidates say nothing about it"
    assert latency_error(()) is None


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([(0.5, 1.0)], "Predicted decode latency of m0 is 50 % too low."),
        ([(n + 1.0, n + 2.0) for n in range(5)], "of 10 pairs of candidates it puts 10 in the right order"),
    ],
)
def test_latency_words_say_of_how_many_pairs(times: list[tuple[float, float]], said: str) -> None:
    checks = (
        LatencyCheck(name=f"m{n}", digest=str(n), predicted_s=p, measured_s=m)
        for n, (p, m) in enumerate(times)
    )
    found = latency_error(tuple(checks))
    assert found is not None
    assert said in latency_words(found)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.5, "2.0 times faster than dense"), (2.0, "2.0 times slower than dense"), (1.01, "as fast as dense"),
     (0.9, "11 % faster than dense")],
)  # fmt: skip
def test_speed_words(ratio: float, words: str) -> None:
    assert speed_words(ratio) == words
