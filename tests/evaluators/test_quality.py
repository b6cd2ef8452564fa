"""The quality evaluator: contract, nested rungs, the dense model against itself."""

import pytest
import torch

from paretune.evaluators.quality import QualityEvaluator
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import RunError, UnknownNameError
from paretune.spaces.measurement import Fidelity
from tests.evaluators.contract import check_evaluator, four_bits

FULL = Fidelity(text="search", windows=8, window_tokens=32)


def test_contract(bench):
    check_evaluator(QualityEvaluator(bench.assembler, bench.teachers), bench.spec, FULL)


def test_the_dense_model_is_no_distance_from_itself(bench):
    found = QualityEvaluator(bench.assembler, bench.teachers).evaluate(DENSE_CONFIG, FULL)
    assert found["kl"].value == pytest.approx(0.0, abs=1e-9)
    assert found["top1_agreement"].value == 1.0


def test_fewer_bits_are_further_away(bench):
    quality = QualityEvaluator(bench.assembler, bench.teachers)
    values = [quality.evaluate(four_bits(bench.spec, bits), FULL)["kl"].value for bits in (8, 4, 2)]
    assert values[0] < values[1] < values[2]


def test_rungs_are_nested_prefixes_and_pay_only_new_windows(bench, monkeypatch):
    quality = QualityEvaluator(bench.assembler, bench.teachers)
    read = []
    teacher = bench.teachers["search"]
    original = teacher.compare
    monkeypatch.setattr(
        teacher,
        "compare",
        lambda model, windows, start, **more: (
            read.append((start, windows)) or original(model, windows, start, **more)
        ),
    )
    config = four_bits(bench.spec)
    short = quality.evaluate(config, Fidelity(text="search", windows=3, window_tokens=32))
    long = quality.evaluate(config, FULL)
    assert read == [(0, 3), (3, 8)]
    assert long["kl"].per_window[:3] == short["kl"].per_window
    whole = QualityEvaluator(bench.assembler, bench.teachers).evaluate(config, FULL)
    assert whole["kl"].value == pytest.approx(long["kl"].value, rel=1e-9)
    # A shorter reading after a longer one costs nothing and says the same.
    read.clear()
    assert dict(quality.evaluate(config, Fidelity(text="search", windows=3, window_tokens=32))) == dict(short)
    assert read == []


def test_a_candidate_is_scored_as_it_runs_under_its_own_name(bench):
    stored = four_bits(bench.spec, 2)
    quality = QualityEvaluator(
        bench.assembler,
        bench.teachers,
        lambda config: four_bits(bench.spec, 8) if config == stored else config,
    )
    wider = QualityEvaluator(bench.assembler, bench.teachers).evaluate(four_bits(bench.spec, 8), FULL)
    assert dict(quality.evaluate(stored, FULL)) == dict(wider)
    assert dict(quality.of(bench.assembler).evaluate(stored, FULL)) == dict(wider)


def test_an_unknown_text_is_refused(bench):
    quality = QualityEvaluator(bench.assembler, bench.teachers)
    with pytest.raises(UnknownNameError, match="report"):
        quality.evaluate(DENSE_CONFIG, Fidelity(text="secret", windows=1, window_tokens=32))


def test_where_memory_ends_fewer_weights_are_kept_and_the_reading_is_the_same(bench, monkeypatch):
    config = four_bits(bench.spec)
    exact = QualityEvaluator(bench.assembler, bench.teachers).evaluate(config, FULL)["kl"].value
    teacher = bench.teachers["search"]
    original, left = teacher.compare, [2]

    def compare(model, **given):
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("no room")
        return original(model, **given)

    monkeypatch.setattr(teacher, "compare", compare)
    held = bench.assembler._copies.held_bytes
    assert QualityEvaluator(bench.assembler, bench.teachers).evaluate(config, FULL)["kl"].value == exact
    assert bench.assembler._copies.held_bytes <= held // 4
    left[0] = 1_000_000
    with pytest.raises(RunError, match="ends its memory"):
        QualityEvaluator(bench.assembler, bench.teachers).evaluate(config, FULL)
