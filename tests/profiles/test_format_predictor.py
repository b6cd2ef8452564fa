"""Latency as a sum over formats: what whole models in one format each say of mixtures."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.profiles.format_predictor import FormatPredictor, mixed_configs, terms, timing_configs
from paretune.profiles.interpolation import UnknownCostError
from paretune.profiles.predictor import MeasuredRun
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Workload
from tests.fakes import FakeLegality, tiny_moe_spec, tiny_spec

WORKLOAD = Workload(prompt_tokens=8, output_tokens=8)
SPEC = tiny_spec()
SPACE = SearchSpace(
    SPEC, FakeLegality(), Restrictions(bits=(2, 4, 8, 16), embedding_bits=(8, 16), sparsity=(0.0,))
)
RATES = {"int2-g128": 3e-9, "int4-g128": 1e-9, "int8-g128": 2e-9, "bf16": 4e-9}


def seconds(spec, config):
    """A machine that computes as the model assumes, with rates of the widths."""
    found = 1e-4
    for (place, name), count in terms(spec, config).items():
        if place == "model":
            found += 2e-5 * count if name == "block" else 0
        else:
            found += count * next(rate for key, rate in RATES.items() if name[:4] == key[:4] or key == "bf16")
    return found


def fitted(spec, space):
    predictor = FormatPredictor()
    times = [(config, seconds(spec, config)) for config in timing_configs(space)]
    predictor.fit(spec, [MeasuredRun(config, WORKLOAD, 3 * s, s) for config, s in times])
    return predictor


PREDICTOR = fitted(SPEC, SPACE)


def test_each_format_and_place_is_timed_once():
    configs = timing_configs(SPACE)
    assert configs[0] == DENSE_CONFIG
    known = [terms(SPEC, config).keys() for config in configs]
    everything = set().union(*known)
    formats = {(place, name) for place, name in everything if place != "model"}
    assert {place for place, _ in formats} == {"blocks", "embedding"}
    assert len(configs) == len({c.digest for c in configs}) <= len(formats) + 3
    shallow = configs[1].pruned.blocks
    assert shallow
    assert len(shallow) < SPEC.blocks


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_mixtures_and_pruned_sizes_are_sums(data):
    point = tuple(data.draw(st.integers(0, size - 1)) for size in SPACE.sizes)
    if not SPACE.ruling(point):
        return
    config = SPACE.decode(point)
    found = PREDICTOR.predict(SPEC, config, WORKLOAD)
    assert found["tpot_s"].value == pytest.approx(seconds(SPEC, config), rel=1e-6)
    assert found["ttft_s"].value == pytest.approx(3 * seconds(SPEC, config), rel=1e-6)
    assert found["tpot_s"].source == "predicted"


def test_what_was_not_timed_is_refused():
    wide = SearchSpace(SPEC, FakeLegality(), Restrictions(bits=(3, 16)))
    config = next(c for c in timing_configs(wide) if c != DENSE_CONFIG and c.pruned.whole)
    with pytest.raises(UnknownCostError, match="int3-g128 weights of blocks"):
        PREDICTOR.predict(SPEC, config, WORKLOAD)


def test_a_token_multiplies_with_active_experts_alone():
    spec = tiny_moe_spec()
    counted = terms(spec, CompressionConfig())
    everything = sum(x.out_features * x.in_features * x.experts for x in spec.block_linears)
    inner = sum(count for (place, _), count in counted.items() if place == "blocks")
    assert 0 < inner < everything


def test_a_time_that_nobody_measured_has_no_prediction():
    predictor = FormatPredictor()
    predictor.fit(SPEC, [MeasuredRun(DENSE_CONFIG, WORKLOAD, None, 1.0)])
    assert predictor.predict(SPEC, DENSE_CONFIG, WORKLOAD).keys() == {"tpot_s"}
    assert predictor.errors == {}


def test_noise_shows_in_the_error_of_mixtures_that_were_held_out():
    """One run per term fits anything; what says whether times are sums over formats are models it did not see."""
    configs, mixtures = timing_configs(SPACE), mixed_configs(SPACE)
    assert len(mixtures) == 3
    assert not set(mixtures) & set(configs)
    assert mixtures == mixed_configs(SPACE)
    random = Random(1)

    def fit(noise: float) -> FormatPredictor:
        predictor = FormatPredictor()
        runs, others = (
            [
                MeasuredRun(c, WORKLOAD, 1.0, seconds(SPEC, c) * (1 + noise * random.uniform(-1, 1)))
                for c in some
            ]
            for some in (configs, mixtures)
        )
        predictor.fit(SPEC, runs, others)
        return predictor

    assert fit(0.0).errors["tpot_s"] < 1e-6
    noisy = fit(0.9)
    assert noisy.errors["tpot_s"] > 0.1
    assert "on mixtures that the fit did not see" in noisy.predict(SPEC, DENSE_CONFIG, WORKLOAD)["tpot_s"].by
