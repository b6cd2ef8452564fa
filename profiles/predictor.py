"""Predicts latency: the sum of a candidate's kernels as they were timed, and the overhead of the whole model.

A prediction names in ``by`` how it came about, what in it was not measured and what does not run as its
format says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paretune.engines.operation import Operation, Phase
from paretune.profiles.devices import detect_device
from paretune.profiles.interpolation import OperationCosts
from paretune.profiles.overhead import Overhead, fit_overhead
from paretune.profiles.table import CostTable
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.measurement import Measurement
from paretune.spaces.model import ModelSpec
from paretune.spaces.target import Device, Workload

if TYPE_CHECKING:
    from paretune.engines.profiled_engine import ProfiledEngine

METRIC: dict[Phase, str] = {"prefill": "ttft_s", "decode": "tpot_s"}
VERSION = "1"


@dataclass(frozen=True)
class MeasuredRun:
    """A whole model, timed: what the overhead is fitted to.

    Attributes:
        config, workload: of the candidate.
        ttft_s, tpot_s: as measured; ``None`` where it was not.
    """

    config: CompressionConfig
    workload: Workload
    ttft_s: float | None = None
    tpot_s: float | None = None


class Predictor:
    """Predicts time to first token and time per token.

    Args:
        engine: that runs the candidates.
        table: its operations as timed on ``device``.
        device: of the table; this machine if left out.
        overheads: by metric, of an earlier fit.

    Attributes:
        overheads: by metric; empty before :meth:`fit`.
    """

    def __init__(
        self,
        engine: ProfiledEngine,
        table: CostTable,
        device: Device | None = None,
        overheads: dict[str, Overhead] | None = None,
    ) -> None:
        self.engine = engine
        self.costs = OperationCosts(table, device or detect_device())
        self.overheads: dict[str, Overhead] = dict(overheads or {})

    def fit(self, spec: ModelSpec, runs: Iterable[MeasuredRun]) -> dict[str, Overhead]:
        """Fit the overhead of both phases to whole-model times; returns :attr:`overheads`.

        Raises:
            UnknownCostError: a run whose operations are of a kernel that was never timed.
        """
        given = list(runs)
        for phase, metric in METRIC.items():
            timed = [run for run in given if getattr(run, metric) is not None]
            self.overheads[metric] = fit_overhead(
                [kept_blocks(spec, run.config) for run in timed],
                [self.kernels_s(spec, run.config, run.workload)[phase] for run in timed],
                [getattr(run, metric) for run in timed],
            )
        return self.overheads

    def predict(
        self, spec: ModelSpec, config: CompressionConfig, workload: Workload
    ) -> dict[str, Measurement]:
        """``ttft_s`` and ``tpot_s`` of a candidate, predicted.

        Raises:
            UnknownCostError: an operation of a kernel that was never timed.
        """
        operations = self.engine.operations(spec, config, workload)
        found = {}
        for phase, metric in METRIC.items():
            part = [operation for operation in operations if operation.phase == phase]
            overhead = self.overheads.get(metric)
            seconds = self._sum(part)
            if overhead is not None:
                seconds += overhead.seconds(kept_blocks(spec, config), seconds)
            found[metric] = Measurement(
                value=seconds, unit="s", source="predicted", by=self._origin(part, overhead)
            )
        return found

    def held_out(self, spec: ModelSpec, runs: Iterable[MeasuredRun]) -> list[dict[str, Measurement]]:
        """What each run would be predicted as, were the overhead fitted to all the others alone."""
        given = list(runs)
        found = []
        for left_out, run in enumerate(given):
            other = Predictor(self.engine, self.costs.table, self.costs.device)
            other.costs = self.costs
            other.fit(spec, given[:left_out] + given[left_out + 1 :])
            found.append(other.predict(spec, run.config, run.workload))
        return found

    def kernels_s(self, spec: ModelSpec, config: CompressionConfig, workload: Workload) -> dict[Phase, float]:
        """Sum of the kernels of each phase, without overhead."""
        operations = self.engine.operations(spec, config, workload)
        return {
            phase: self._sum([operation for operation in operations if operation.phase == phase])
            for phase in METRIC
        }

    def _sum(self, operations: list[Operation]) -> float:
        return sum(operation.count * self.costs.estimate(operation).seconds for operation in operations)

    def _origin(self, operations: list[Operation], overhead: Overhead | None) -> str:
        parts = [f"kernels/{VERSION}" if overhead is None else f"kernels+overhead/{VERSION}"]
        how = Counter(self.costs.estimate(operation).how for operation in operations)
        parts += [
            f"{how[kind]} of {len(operations)} operations {kind}"
            for kind in ("interpolated", "scaled")
            if how[kind]
        ]
        parts += sorted({operation.note for operation in operations if operation.note})
        return "; ".join(parts)


def kept_blocks(spec: ModelSpec, config: CompressionConfig) -> int:
    """Blocks of the candidate."""
    return sum(config.keeps_block(block) for block in range(spec.blocks))
