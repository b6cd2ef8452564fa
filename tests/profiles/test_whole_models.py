"""Whole exports are timed in turns and removed again; neighbours share the disk as far as it goes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from paretune.engines.engine import ExportTimes
from paretune.profiles.whole_model import _parts, time_exports
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.target import Workload
from tests.fakes import tiny_spec

SPEC = tiny_spec()
WORKLOAD = Workload(prompt_tokens=8, output_tokens=8)
HALF = CompressionConfig(pruned=PrunedShape(blocks=tuple(range(SPEC.blocks // 2))))


class Engine:
    """Takes as many seconds as the candidate has blocks, and twice that in its first process."""

    def __init__(self):
        self.order, self.written = [], {}

    def stored(self, spec):
        return spec

    def export(self, assembler, config, folder, card):
        folder.mkdir()
        self.written[folder] = config

    def time_export(self, folder, workload, repetitions):
        config = self.written[folder]
        self.order.append(config)
        blocks = len(config.pruned.blocks or range(SPEC.blocks))
        slow = 2.0 if self.order.count(config) == 1 else 1.0
        return ExportTimes((10.0 * blocks * slow,) * repetitions, (blocks * slow,) * repetitions)


def test_candidates_take_turns_and_nothing_is_left(tmp_path):
    engine = Engine()
    told = []
    found = time_exports(
        engine, SimpleNamespace(spec=SPEC), [DENSE_CONFIG, HALF], WORKLOAD, tmp_path, rounds=3,
        progress=lambda *words: told.append(words[1:]),
    )  # fmt: skip
    assert engine.order == [DENSE_CONFIG, HALF] * 3
    assert [whole.run.config for whole in found] == [DENSE_CONFIG, HALF]
    assert [whole.run.tpot_s for whole in found] == [SPEC.blocks, SPEC.blocks // 2]
    assert [whole.run.ttft_s for whole in found] == [10 * SPEC.blocks, 10 * (SPEC.blocks // 2)]
    assert found[0].tpot_spread_s > 0
    assert told[-1] == (6, 6)
    assert not any(folder.exists() for folder in engine.written)


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [([1, 1, 1, 1], [4]), ([5, 5, 5, 5], [2, 2]), ([20, 20, 20], [2, 1]), ([3, 3, 3, 3], [3, 1]), ([], [])],
)
def test_neighbours_fit_the_disk_together_two_at_least(sizes, parts):
    found = [len(part) for part in _parts([DENSE_CONFIG] * len(sizes), sizes, budget=10)]
    assert found == parts
