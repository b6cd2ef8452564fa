"""How much fits: the largest batch and the longest context that a device has memory for."""

from __future__ import annotations

from collections.abc import Callable

from paretune.profiles.candidates import Candidate
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import check_heads
from paretune.spaces.target import Device, Workload

USABLE_SHARE = 0.9
"""Of the memory: what serving engines take by default; the rest is left to driver and runtime."""
_MOST_SEQUENCES = 2**20


def check_workload(spec: ModelSpec, workload: Workload) -> None:
    """Refuse a workload that the model cannot have.

    Raises:
        ConfigurationError: prompt and output are longer than the model's context, or heads cannot be divided among
            the devices.
    """
    check_heads(spec, workload)
    if workload.context > spec.context:
        raise ConfigurationError(
            f"workload {workload.name}",
            f"its {workload.context:,} tokens exceed the model's context of {spec.context:,}",
            "Shorten prompt or output",
        )


def usable_bytes(device: Device) -> int:
    """Memory that weights, cache and activations may have."""
    return int(USABLE_SHARE * device.memory_bytes)


def largest_batch(spec: ModelSpec, candidate: Candidate, device: Device, workload: Workload) -> int:
    """Sequences of the workload's lengths that fit together; 0 when not even one does."""
    weights, room = candidate.weight_bytes(spec), usable_bytes(device)

    def fits(batch: int) -> bool:
        asked = workload.model_copy(update={"batch": batch})
        return candidate.memory_bytes(spec, asked, weights) <= room

    return _largest(fits, _MOST_SEQUENCES)


def largest_context(spec: ModelSpec, candidate: Candidate, device: Device, workload: Workload) -> int:
    """Tokens, prompt and output together, that the batch can have; at most the model's own context.

    0 when the workload's output does not even fit behind a prompt of one token.
    """
    weights, room = candidate.weight_bytes(spec), usable_bytes(device)

    def fits(prompt: int) -> bool:
        asked = workload.model_copy(update={"prompt_tokens": prompt})
        return candidate.memory_bytes(spec, asked, weights) <= room

    prompt = _largest(fits, max(0, spec.context - workload.output_tokens))
    return prompt + workload.output_tokens if prompt else 0


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to ``most`` that fits, where everything below it fits too; 0 if none does."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
