"""The predictor: sums of what was timed, an overhead, and where the number comes from."""

from __future__ import annotations

import time

import pytest

from paretune.engines import find_engine
from paretune.profiles.coverage import space_operations
from paretune.profiles.interpolation import UnknownCostError
from paretune.profiles.overhead import Overhead
from paretune.profiles.predictor import MeasuredRun, Predictor
from paretune.profiles.table import CostRow, CostTable
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.formats import integer_format
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Workload
from tests.fakes import tiny_moe_spec, tiny_spec
from tests.profiles.fakes import ROUND, FakeEngine, linear, table

SPEC = tiny_spec(blocks=4)
WORKLOAD = Workload(batch=2, prompt_tokens=8, output_tokens=4)
INT4 = CompressionConfig(
    layers={
        linear.name: LayerChoice(weight=integer_format(4, 32), method="rtn") for linear in SPEC.block_linears
    }
)
ZEROS = CompressionConfig(layers={SPEC.block_linears[0].name: LayerChoice(sparsity=Sparsity(fraction=0.5))})
SHALLOW = CompressionConfig(pruned=PrunedShape(blocks=(0, 1)))
TABLE = table(
    {
        linear(16, 64, 64): 4e-3,
        linear(2, 64, 64): 1e-3,
        linear(16, 64, 64, "int4"): 3e-3,
        linear(2, 64, 64, "int4"): 0.5e-3,
    }
)


def predictor(**options) -> Predictor:
    return Predictor(FakeEngine(), TABLE, ROUND, **options)


def test_kernels_are_summed_by_count():
    found = predictor().predict(SPEC, DENSE_CONFIG, WORKLOAD)
    assert found["ttft_s"].value == pytest.approx(8 * 4e-3)
    assert found["tpot_s"].value == pytest.approx(4 * 1e-3)
    assert {each.source for each in found.values()} == {"predicted"}
    assert {each.by for each in found.values()} == {"kernels/1"}
    assert {each.unit for each in found.values()} == {"s"}


def runs() -> list[MeasuredRun]:
    """Measured times of models with 1 ms a block and 2 ms once in decode, 5 ms a block in prefill."""
    found = []
    for config in (DENSE_CONFIG, INT4, SHALLOW, ZEROS):
        blocks = 2 if config == SHALLOW else 4
        kernels = predictor().kernels_s(SPEC, config, WORKLOAD)
        found.append(
            MeasuredRun(
                config, WORKLOAD, kernels["prefill"] + 5e-3 * blocks, kernels["decode"] + 1e-3 * blocks + 2e-3
            )
        )
    return found


def test_the_overhead_is_fitted_and_added():
    made = predictor()
    fitted = made.fit(SPEC, runs())
    assert fitted["tpot_s"].per_block_s == pytest.approx(1e-3)
    assert fitted["tpot_s"].constant_s == pytest.approx(2e-3)
    assert fitted["ttft_s"].per_block_s == pytest.approx(5e-3)
    found = made.predict(SPEC, INT4, WORKLOAD)["tpot_s"]
    assert found.value == pytest.approx(4 * 0.5e-3 + 4e-3 + 2e-3)
    assert found.by == "kernels+overhead/1"
    restored = predictor(overheads=fitted)
    assert restored.predict(SPEC, INT4, WORKLOAD)["tpot_s"] == found


def test_a_time_that_was_not_measured_is_not_fitted():
    fitted = predictor().fit(SPEC, [MeasuredRun(DENSE_CONFIG, WORKLOAD, tpot_s=6e-3)])
    assert fitted["ttft_s"] == Overhead()
    assert fitted["tpot_s"].n == 1


def test_held_out_predictions_do_not_know_their_own_time():
    honest = runs()
    spoilt = [*honest[:1], MeasuredRun(INT4, WORKLOAD, 1.0, 1.0), *honest[2:]]
    before, after = (predictor().held_out(SPEC, given)[1]["tpot_s"].value for given in (honest, spoilt))
    assert before == after == pytest.approx(honest[1].tpot_s)


def test_what_was_not_measured_is_said():
    wide = Workload(batch=4, prompt_tokens=8, output_tokens=4)
    by = {name: found.by for name, found in predictor().predict(SPEC, ZEROS, wide).items()}
    assert by["tpot_s"] == "kernels/1; 1 of 1 operations interpolated; a note"
    assert by["ttft_s"] == "kernels/1; 1 of 1 operations scaled; a note"


def test_a_kernel_that_was_never_timed_is_refused():
    dense = table({linear(2, 64, 64): 1e-3})
    with pytest.raises(UnknownCostError, match="kernel int4"):
        Predictor(FakeEngine(), dense, ROUND).predict(SPEC, INT4, WORKLOAD)


@pytest.mark.parametrize("spec", [tiny_spec(), tiny_moe_spec()], ids=["dense", "mixture"])
def test_a_table_of_the_space_covers_every_candidate_of_it(spec):
    import numpy as np

    engine = find_engine("torch-cpu")
    restrictions = Restrictions(group_size=32, methods=("rtn",), sparsity=(0.0, 0.8))
    space = SearchSpace(spec, engine.legality("x86-avx2"), restrictions)
    operations = space_operations(engine, space, WORKLOAD)
    rows = tuple(
        CostRow(device="round", engine="torch-cpu", engine_version="1", operation=each, seconds=1e-6)
        for each in operations
    )
    made = Predictor(engine, CostTable(rows=rows), ROUND)
    rng = np.random.default_rng(0)
    for _ in range(30):
        config = space.decode(space.random(rng))
        found = made.predict(spec, config, WORKLOAD)
        assert "scaled" not in found["tpot_s"].by + found["ttft_s"].by
        assert "interpolated" not in found["tpot_s"].by + found["ttft_s"].by


def test_predicting_is_cheap():
    engine = find_engine("torch-cpu")
    spec = tiny_spec(blocks=16)
    operations = engine.operations(spec, DENSE_CONFIG, WORKLOAD)
    rows = [
        CostRow(device="round", engine="torch-cpu", engine_version="1", operation=each, seconds=1e-6)
        for each in operations
    ]
    made = Predictor(engine, CostTable(rows=tuple(rows)), ROUND)
    made.predict(spec, DENSE_CONFIG, WORKLOAD)
    start = time.perf_counter()
    for _ in range(10):
        made.predict(spec, DENSE_CONFIG, WORKLOAD)
    assert (time.perf_counter() - start) / 10 < 0.05
