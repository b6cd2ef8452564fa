"""The cost evaluator: sizes come from spaces.size, predictions keep their name."""

from paretune.evaluators.cost import CostEvaluator
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.measurement import Fidelity, Measurement
from paretune.spaces.size import memory_bytes, weight_bytes
from paretune.spaces.target import Workload
from tests.evaluators.contract import check_evaluator, four_bits

FIDELITY = Fidelity(windows=1, window_tokens=16)


class FakePredictor:
    def predict(self, spec, config, workload):
        value = 1e-3 * (1 + len(config.layers))
        return {"tpot_s": Measurement(value=value, unit="s", source="predicted", by="fake")}


def test_contract(bench):
    check_evaluator(CostEvaluator(bench.spec, Workload(), FakePredictor()), bench.spec, FIDELITY)


def test_sizes_are_the_oracle_s(bench):
    workload = Workload(batch=3)
    config = four_bits(bench.spec)
    found = CostEvaluator(bench.spec, workload).evaluate(config)
    assert found["weight_bytes"].value == weight_bytes(bench.spec, config)
    assert found["memory_bytes"].value == memory_bytes(bench.spec, config, workload)
    assert set(found) == {"average_bits", "weight_bytes", "memory_bytes"}


def test_predicted_times_never_look_measured(bench):
    found = CostEvaluator(bench.spec, Workload(), FakePredictor()).evaluate(DENSE_CONFIG)
    assert "tpot_s" not in found
    assert found["tpot_s_predicted"].source == "predicted"
