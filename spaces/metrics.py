"""The metrics a search can minimise, limit and report: name, unit, direction."""

from __future__ import annotations

import math
from typing import Literal

from paretune.spaces.errors import UnknownNameError
from paretune.spaces.schema import Frozen

Direction = Literal["minimize", "maximize"]


class Metric(Frozen):
    """A quantity with a name that is the same in files, options and reports.

    Attributes:
        name: column name; the unit is part of it.
        unit: SI unit, ``""`` for a pure number.
        direction: which way is better.
        family: ``quality`` (needs the model), ``size`` (computed exactly) or ``cost`` (of a device).
        label: for people.
    """

    name: str
    unit: str
    direction: Direction
    family: Literal["quality", "size", "cost"]
    label: str

    def loss(self, value: float, dense: float) -> float:
        """How much worse a value is than that of the dense model on the same windows: 0 for the dense model.

        In nats for a perplexity (the ratio's logarithm is the difference of the mean next-token losses), else the
        difference, in the metric's unit.
        """
        if self.name == "perplexity":
            return math.log(value / dense)
        return value - dense if self.direction == "minimize" else dense - value


_METRICS = (
    Metric(name="kl", unit="nat", direction="minimize", family="quality", label="KL to the dense model"),
    Metric(
        name="kl_p99",
        unit="nat",
        direction="minimize",
        family="quality",
        label="KL, 99th percentile of tokens",
    ),
    Metric(
        name="top1_agreement",
        unit="",
        direction="maximize",
        family="quality",
        label="Same top token as dense",
    ),
    Metric(name="perplexity", unit="", direction="minimize", family="quality", label="Perplexity per token"),
    Metric(
        name="average_bits", unit="bit", direction="minimize", family="size", label="Average bits of a weight"
    ),
    Metric(name="weight_bytes", unit="B", direction="minimize", family="size", label="Bytes of the export"),
    Metric(
        name="memory_bytes", unit="B", direction="minimize", family="size", label="Memory at the workload"
    ),
    Metric(name="ttft_s", unit="s", direction="minimize", family="cost", label="Time to first token"),
    Metric(name="tpot_s", unit="s", direction="minimize", family="cost", label="Time per output token"),
    Metric(
        name="energy_j_per_token",
        unit="J",
        direction="minimize",
        family="cost",
        label="Energy per output token",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}

ALIASES = {
    "memory": "memory_bytes",
    "bytes": "weight_bytes",
    "size": "weight_bytes",
    "weights": "weight_bytes",
    "bits": "average_bits",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "latency": "tpot_s",
    "energy": "energy_j_per_token",
    "ppl": "perplexity",
}
"""Short names accepted in options; files carry the full names."""


def find_metric(name: str) -> Metric:
    """The metric called ``name``, by its full name, an alias, or ``task.NAME``.

    Raises:
        UnknownNameError: there is none.
    """
    full = ALIASES.get(name, name)
    if full in METRICS:
        return METRICS[full]
    if full.startswith("task.") and len(full) > len("task."):
        return Metric(
            name=full, unit="", direction="maximize", family="quality", label=full.removeprefix("task.")
        )
    raise UnknownNameError("metric", name, (*METRICS, *ALIASES, "task.NAME"))
