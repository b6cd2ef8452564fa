"""A study over a synthetic quality: exact sensitivities that add up, a little interaction, windows that differ."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from paretune.evaluators.cost import CostEvaluator
from paretune.search.settings import SearchSettings
from paretune.search.study import Study
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.measurement import Fidelity, Measurement
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from paretune.spaces.statistics import numbered
from paretune.spaces.target import Workload
from tests.fakes import FakeLegality, tiny_spec

WINDOW_TOKENS = 128


class FakeQuality:
    """KL that depends on the point and, a little, on the window; counts how often it was asked."""

    name, version, metrics = "fake", "1", ("kl", "perplexity", "top1_agreement")

    def __init__(self, space: SearchSpace, seconds: float = 0.0) -> None:
        self.space = space
        self.seconds = seconds
        self.read = 0
        random = np.random.default_rng(5)
        self.sensitivities = [10 ** random.uniform(-3, 0) for _ in space.parameters]

    def evaluate(self, config: CompressionConfig, fidelity: Fidelity) -> dict[str, Measurement]:
        self.read += 1
        time.sleep(self.seconds)
        kl = 0.0
        for parameter, sensitivity in zip(self.space.parameters, self.sensitivities, strict=True):
            value: Any = None
            if parameter.group is None:
                value = None if parameter.kind == "kv" else getattr(config.pruned, parameter.kind)
            elif config.keeps_block(parameter.group.block):
                value = config.choice(parameter.group.layers[0])
            weight = getattr(value, "weight", None)
            if weight is not None and not weight.dense:
                kl += sensitivity * 4.0 ** (2 - weight.num_bits)
            if getattr(value, "sparsity", None) is not None or (
                parameter.kind not in ("layer", "kv") and value
            ):
                kl += 0.3 * sensitivity
        kl /= 4  # an agreement of 1 - kl is not below 0
        offset = 1.0 if fidelity.text == "search" else 1.1
        windows = np.array([kl * offset * (1 + 0.1 * np.sin(w)) for w in range(fidelity.windows)])
        # What is lost is a whole multiple of a power of two, so that it is the same beside any dense value.
        windows = np.rint(windows * 2**32) / 2**32
        # Of the dense model too, and windows differ: a perplexity of few windows is another one than that of many.
        level = np.array([2.8 + 0.3 * np.sin(w) for w in range(fidelity.windows)])
        lost = np.rint(windows.mean() * 2**32) / 2**32
        return {
            "kl": _reading(lost, windows, "nat"),
            "perplexity": _reading(math.exp(level.mean() + lost), np.exp(level + windows)),
            "top1_agreement": _reading(1 - lost, 1 - windows),
        }


def _reading(value: float, windows: np.ndarray, unit: str = "") -> Measurement:
    return Measurement(
        value=float(value),
        unit=unit,
        n=len(windows),
        per_window=tuple(map(float, windows)),
        sample=numbered(len(windows)),
    )


def make_study(
    folder: Path,
    settings: SearchSettings,
    seconds: float = 0.0,
    restrictions: Restrictions | None = None,
    blocks: int = 3,
) -> Study:
    spec = tiny_spec(blocks=blocks)
    space = SearchSpace(spec, FakeLegality(), restrictions or Restrictions(group_size=None))
    folder.mkdir(parents=True, exist_ok=True)
    return Study(
        space,
        FakeQuality(space, seconds),
        CostEvaluator(spec, Workload()),
        settings,
        folder,
        {"search": 64, "report": 64},
        WINDOW_TOKENS,
    )
