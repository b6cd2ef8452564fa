"""Latency from the data sheet alone: what no engine on that device can beat.

Every kernel takes ``max(bytes / bandwidth, operations / peak)``, each launch a little more (Williams et al.
2009). Engines stay above these figures, by more with small matrices than with large ones: they are good for
saying what binds and what a format can give at most. A model that lives in the cache can run below them.
Devices that share a layer are taken to share its work evenly; what they say to each other is not counted.
"""

from __future__ import annotations

from typing import Literal

from paretune.engines.operation import Operation, Phase
from paretune.profiles.work import Case, Work, launches, work
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.schema import Frozen
from paretune.spaces.size import average_bits
from paretune.spaces.target import Device, Workload

Resource = Literal["weights", "cache", "activations", "compute", "launches"]
RESOURCES: dict[Resource, str] = {
    "weights": "memory bandwidth, reading weights",
    "cache": "memory bandwidth, reading keys and values",
    "activations": "memory bandwidth, moving activations",
    "compute": "arithmetic",
    "launches": "starting kernels",
}


class PhaseCost(Frozen):
    """What one pass costs at least; the seconds of its kernels by what each of them waits for.

    Attributes:
        weights_s: bandwidth, reading weights.
        cache_s: bandwidth, reading keys and values.
        activations_s: bandwidth, moving inputs and outputs.
        compute_s: arithmetic.
        launches_s: starts of kernels.
        read_bytes: weights and cache that must be read.
        operations: that must be done.
        kernels: that are launched.
    """

    weights_s: float
    cache_s: float
    activations_s: float
    compute_s: float
    launches_s: float
    read_bytes: float
    operations: float
    kernels: int

    @property
    def shares(self) -> dict[Resource, float]:
        """Seconds by resource."""
        return {
            "weights": self.weights_s,
            "cache": self.cache_s,
            "activations": self.activations_s,
            "compute": self.compute_s,
            "launches": self.launches_s,
        }

    @property
    def seconds(self) -> float:
        """Of the pass."""
        return sum(self.shares.values())

    @property
    def binds(self) -> Resource:
        """The resource that most of the time is spent on."""
        shares = self.shares
        return max(shares, key=lambda resource: shares[resource])


class Roofline(Frozen):
    """Both phases of a workload.

    Attributes:
        prefill: of the prompts of one batch; its seconds are the time to first token.
        decode: of one token for each sequence, halfway through the output; its seconds are the time a token.
    """

    prefill: PhaseCost
    decode: PhaseCost

    def request_s(self, workload: Workload) -> float:
        """Seconds that one batch takes from its prompts to its last tokens."""
        return self.prefill.seconds + (workload.output_tokens - 1) * self.decode.seconds


def roofline(case: Case) -> Roofline:
    """Floors of both phases."""
    return Roofline(prefill=_phase(case, "prefill"), decode=_phase(case, "decode"))


def compute_bound_tokens(case: Case) -> float:
    """Tokens in one pass from which products in the blocks wait for arithmetic and no more for weights."""
    bytes_a_weight = average_bits(case.spec, case.config) / 8
    layer = case.spec.block_linears[0].name
    return (
        bytes_a_weight * peak(case.device, case.arithmetic(layer)) / (2 * case.device.bandwidth_bytes_per_s)
    )


def peak(device: Device, arithmetic: str) -> float:
    """Operations a second.

    Raises:
        ConfigurationError: the device has no such arithmetic.
    """
    found = device.peak_operations_per_s.get(arithmetic)
    if found is None:
        raise ConfigurationError(
            f"{arithmetic} arithmetic on {device.label}",
            f"its data sheet has {', '.join(device.peak_operations_per_s)}",
            "Choose one of these",
        )
    return found


def _phase(case: Case, phase: Phase) -> PhaseCost:
    devices = case.workload.tensor_parallel
    spent = dict.fromkeys(("weights", "cache", "activations", "compute"), 0.0)
    read = operations = 0.0
    for kernel in work(case, phase):
        _spend(kernel, case.device, devices, spent)
        read += kernel.stored_bytes
        operations += kernel.operations
    count = launches(case)
    return PhaseCost(
        weights_s=spent["weights"],
        cache_s=spent["cache"],
        activations_s=spent["activations"],
        compute_s=spent["compute"],
        launches_s=count * case.device.launch_s,
        read_bytes=read / devices,
        operations=operations / devices,
        kernels=count,
    )


def _spend(kernel: Work, device: Device, devices: int, spent: dict[str, float]) -> None:
    stored_s = kernel.stored_bytes / device.bandwidth_bytes_per_s / devices
    moved_s = kernel.moved_bytes / device.bandwidth_bytes_per_s / devices
    compute_s = compute_seconds(device, kernel.arithmetic, kernel.operations) / devices
    if compute_s >= stored_s + moved_s:
        spent["compute"] += compute_s
    else:
        spent[kernel.part] += stored_s
        spent["activations"] += moved_s


def compute_seconds(device: Device, arithmetic: str, operations: float) -> float:
    """Of so many operations; of none, whatever the arithmetic, none."""
    return operations / peak(device, arithmetic) if operations else 0.0


def operation_floor_s(operation: Operation, device: Device) -> float:
    """Of one run of a timed kernel, without its launch: from shapes, bits and kernel alone."""
    arithmetic = operation.arithmetic if operation.arithmetic in device.peak_operations_per_s else "fp32"
    moved_s = operation.moved_bytes / device.bandwidth_bytes_per_s
    return max(moved_s, compute_seconds(device, arithmetic, operation.multiplications))
