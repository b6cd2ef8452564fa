"""A candidate with everything that advice says of it: bytes, memory, floors of latency."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from paretune.profiles.candidates import Candidate
from paretune.profiles.capacity import usable_bytes
from paretune.profiles.roofline import Roofline, roofline
from paretune.profiles.work import Case
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_linears, layer_bytes
from paretune.spaces.target import Device, Workload


@dataclass(frozen=True)
class Target:
    """What advice is asked about."""

    spec: ModelSpec
    device: Device
    workload: Workload


@dataclass(frozen=True)
class Scored:
    """A candidate at a target."""

    target: Target
    candidate: Candidate

    @property
    def case(self) -> Case:
        """What the roofline counts."""
        target, candidate = self.target, self.candidate
        return Case(target.spec, candidate.config, target.workload, target.device, candidate.execution)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the export."""
        return self.candidate.weight_bytes(self.target.spec)

    @cached_property
    def memory_bytes(self) -> int:
        """On each device at the workload."""
        return self.candidate.memory_bytes(self.target.spec, self.target.workload, self.weight_bytes)

    @property
    def fits(self) -> bool:
        """Whether that is at most what is usable."""
        return self.memory_bytes <= usable_bytes(self.target.device)

    @cached_property
    def floors(self) -> Roofline:
        """Of latency."""
        case = self.case
        return roofline(case.spec, case.config, case.workload, case.device, case.execution)

    @property
    def request_s(self) -> float:
        """Of one batch, first to last token."""
        return self.floors.request_s(self.target.workload)

    @cached_property
    def quantized_bytes(self) -> int:
        """Stored bytes of the layers that are not dense."""
        spec, config = self.target.spec, self.candidate.config
        return sum(
            layer_bytes(spec, linear, config).payload
            for linear in kept_linears(spec, config)
            if not config.choice(linear.name).weight.dense
        )
