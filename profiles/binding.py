"""What binds the model as it is: memory, and in each phase bandwidth, arithmetic or the starts of kernels."""

from __future__ import annotations

from paretune.profiles.capacity import USABLE_SHARE, usable_bytes
from paretune.profiles.roofline import PhaseCost, Resource, compute_bound_tokens
from paretune.profiles.scored import Scored
from paretune.profiles.wording import count, duration, share, size
from paretune.spaces.schema import Frozen

NAMES: dict[Resource, str] = {
    "weights": "memory bandwidth, reading weights",
    "cache": "memory bandwidth, reading keys and values",
    "activations": "memory bandwidth, moving activations",
    "compute": "arithmetic",
    "launches": "starting kernels",
}


class Binding(Frozen):
    """What the model as it is waits for.

    Attributes:
        resource: ``memory`` when it does not fit, else what most of a request's time is spent on.
        phase: where that is; ``None`` for memory.
        statements: in words, with numbers.
    """

    resource: Resource | str
    phase: str | None
    statements: tuple[str, ...]


def find_binding(dense: Scored) -> Binding:
    """What binds, from the numbers of the dense model."""
    floors, workload = dense.floors, dense.target.workload
    decoding = dense.request_s - floors.prefill.seconds
    phase, cost = (
        ("decode", floors.decode) if decoding >= floors.prefill.seconds else ("prefill", floors.prefill)
    )
    statements = (
        _memory(dense),
        _phase(f"Prefill of {workload.batch * workload.prompt_tokens:,} tokens", floors.prefill, dense),
        _phase(f"Decode at batch {workload.batch:,}", floors.decode, dense),
        f"A batch takes at least {duration(dense.request_s)} from prompts to last tokens, "
        f"{share(max(decoding, floors.prefill.seconds), dense.request_s)} of it in {phase}: "
        f"{NAMES[cost.binds]}, is what binds most.",
        *_turning_point(dense),
        *_cached(dense),
    )
    if not dense.fits:
        return Binding(resource="memory", phase=None, statements=statements)
    return Binding(resource=cost.binds, phase=phase, statements=statements)


def _memory(dense: Scored) -> str:
    device, room = dense.target.device, usable_bytes(dense.target.device)
    verdict = "does not bind" if dense.fits else "binds, the model does not fit"
    each = " on each device" if dense.target.workload.tensor_parallel > 1 else ""
    return (
        f"Memory {verdict}: {size(dense.memory_bytes)} for weights, cache and activations{each}, "
        f"{size(room)} usable ({100 * USABLE_SHARE:.0f} % of {size(device.memory_bytes)})."
    )


def _phase(what: str, cost: PhaseCost, dense: Scored) -> str:
    parts = sorted(cost.shares.items(), key=lambda item: -item[1])
    told = [
        f"{NAMES[name]}: {duration(s)} ({share(s, cost.seconds)})"
        for name, s in parts
        if s > 0.05 * cost.seconds
    ]
    return (
        f"{what} takes at least {duration(cost.seconds)}: {'; '.join(told)}. It reads "
        f"{size(cost.read_bytes)}, does {count(cost.operations)}operations in {dense.case.dense_arithmetic} "
        f"and starts {cost.kernels:,} kernels."
    )


def _turning_point(dense: Scored) -> tuple[str, ...]:
    tokens = compute_bound_tokens(dense.case)
    if dense.target.spec.experts:
        return ()  # experts see a share of the tokens each: one number would mislead
    return (
        f"Dense products wait for weights up to about {tokens:,.0f} tokens a pass, for arithmetic beyond.",
    )


def _cached(dense: Scored) -> tuple[str, ...]:
    read, cache = dense.floors.decode.read_bytes, dense.target.device.cache_bytes
    if read > cache:
        return ()
    return (
        f"What decode reads ({size(read)}) fits the cache ({size(cache)}): bandwidth can be better than "
        "memory's, and these times shorter.",
    )
