"""What a trial costs besides scoring it: proposing, telling, writing, at 224 groups.

A fake quality answers at once, so that everything that is timed is bookkeeping.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paretune.evaluators.cost import CostEvaluator
from paretune.search.settings import SearchSettings
from paretune.search.study import Study
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.measurement import Fidelity, Measurement
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from paretune.spaces.statistics import measure, numbered
from paretune.spaces.target import Workload
from tests.fakes import FakeLegality, tiny_spec

BLOCKS = 56  # four groups each
TRIALS = 5000
_EDGE = 500


class _Instant:
    """A quality that costs nothing: damages that add up."""

    name, version, metrics = "instant", "1", ("kl",)

    def __init__(self, space: SearchSpace) -> None:
        random = np.random.default_rng(0)
        self._damage = {
            layer: 10 ** random.uniform(-5, -2) for group in space.groups for layer in group.layers
        }

    def evaluate(self, config: CompressionConfig, fidelity: Fidelity) -> dict[str, Measurement]:
        kl = sum(
            self._damage[layer] * 4.0 ** (4 - choice.weight.num_bits)
            for layer, choice in config.layers.items()
            if not choice.weight.dense
        )
        return {"kl": measure([kl] * fidelity.windows, numbered(fidelity.windows), unit="nat")}


def measure_bookkeeping(trials: int = TRIALS) -> Iterator[tuple[str, float, float | None, str]]:
    """Seconds a trial early and late, and their ratio."""
    spec = tiny_spec(blocks=BLOCKS)
    space = SearchSpace(
        spec,
        FakeLegality(),
        Restrictions(group_size=None, sparsity=(0.0,), methods=("rtn",), embedding_bits=(16,)),
    )
    times: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        study = Study(
            space,
            _Instant(space),
            CostEvaluator(spec, Workload()),
            SearchSettings(max_candidates=trials, candidate_tokens=2048),
            Path(place),
            {"search": 8, "report": 8},
            256,
        )

        def note(what: str, done: int, total: int | None, left: float | None) -> None:
            del done, total, left
            if "candidates" in what:
                times.append(time.perf_counter())

        study.run(note)
    taken = np.diff(times)
    early, late = float(taken[:_EDGE].mean()), float(taken[-_EDGE:].mean())
    yield "bookkeeping_a_trial_224_groups_first_500", early, 0.030, "s"
    yield "bookkeeping_a_trial_224_groups_last_500", late, 0.030, "s"
    yield "bookkeeping_growth_over_5000_trials", late / early - 1, 0.5, "fraction"
