"""Which approach fits what binds: quantizing, pruning or a smaller pruned model, and in which order to try them.

The order is greedy. What needs no training comes first, what needs recovery next, a pruned model last; inside a
tier the largest gain on a whole batch wins. After each step the gains of what is left are computed again on
top of what was chosen, because another resource may bind then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from paretune.profiles.binding import NAMES
from paretune.profiles.candidates import (
    DENSE,
    SPARSE_GENERATIONS,
    Approach,
    Candidate,
    eight_bit_cache,
    half_zeros,
    smaller_pruned,
    uniform_candidates,
)
from paretune.profiles.scored import Scored, Target
from paretune.profiles.wording import duration, size, times
from paretune.spaces.schema import Frozen

TIERS: dict[Approach, int] = {"quantize": 2, "prune": 1, "pruned": 1}
"""Approaches in the order of trying, and how many steps of each: weights and cache can both be quantized."""
WORTHWHILE = 1.1
"""A step that gains less than a tenth is not worth its loss of quality."""
_RISK = ("int8", "fp8", "int8-both", "kv8", "int4")
"""From the least damage to quality to the most; decides between gains within a tenth of each other."""


class Step(Frozen):
    """One thing to try, on top of the steps before it.

    Attributes:
        name, label, approach: of what is done.
        fits: whether memory suffices after it.
        memory_bytes, weight_bytes, ttft_s, tpot_s, request_s: after it; times are floors, of a whole batch.
        gain: factor on ``request_s`` against the step before.
        statement: in words.
    """

    name: str
    label: str
    approach: Approach
    fits: bool
    memory_bytes: int
    weight_bytes: int
    ttft_s: float
    tpot_s: float
    request_s: float
    gain: float
    statement: str


def order_to_try(target: Target) -> tuple[Step, ...]:
    """Steps from the dense model, each worth a tenth of a batch's time, or needed to fit the memory."""
    now = Scored(target, DENSE)
    steps: list[Step] = []
    for tier, most in TIERS.items():
        for _ in range(most):
            found = best_lever(now, tier)
            if found is not None:
                steps.append(_step(now, found))
                now = found
    return tuple(steps)


def best_lever(now: Scored, approach: Approach) -> Scored | None:
    """The lever of one approach that is worth most on top of ``now``; ``None`` if none is worthwhile."""
    options = [Scored(now.target, lever) for lever in levers(now.target, now.candidate, approach)]
    if not now.fits:
        smaller = [option for option in options if option.memory_bytes * WORTHWHILE <= now.memory_bytes]
        if smaller and not any(option.fits for option in smaller):
            return min(smaller, key=lambda option: option.memory_bytes)
        options = [option for option in smaller if option.fits]
    else:
        options = [option for option in options if gain(now, option) >= WORTHWHILE]
    if not options:
        return None
    most = max(gain(now, option) for option in options)
    near = [option for option in options if gain(now, option) * WORTHWHILE >= most]
    return min(near, key=lambda option: (_risk(option), -gain(now, option)))


def gain(before: Scored, after: Scored) -> float:
    """Factor on the time of a batch."""
    return before.request_s / after.request_s


def levers(target: Target, candidate: Candidate, approach: Approach) -> Iterator[Candidate]:
    """Everything of one approach that can still be done to ``candidate``."""
    config, spec = candidate.config, target.spec
    quantized = any(not choice.weight.dense for choice in config.layers.values())
    if approach == "quantize":
        if not quantized:
            for uniform in uniform_candidates(spec, target.device)[1:]:
                yield replace(uniform, config=uniform.config.replaced(kv=config.kv))
        if config.kv.num_bits == 16:
            changed = eight_bit_cache(config)
            yield replace(
                candidate, name="kv8", label="8-bit keys and values", approach=approach, config=changed
            )
    elif approach == "prune":
        narrow = any(choice.weight.num_bits < 8 for choice in config.layers.values())
        if (
            target.device.generation in SPARSE_GENERATIONS
            and not candidate.execution.sparse_2_4
            and not narrow
        ):
            yield replace(
                candidate,
                name="2:4",
                label="2:4 sparsity",
                approach=approach,
                config=half_zeros(spec, config),
                execution=replace(candidate.execution, sparse_2_4=True),
                needs="an engine with 2:4 kernels, and training that recovers quality",
            )
    elif approach == "pruned":
        for name, (label, smaller) in smaller_pruned(spec, config).items():
            needs = "training that recovers quality"
            yield replace(candidate, name=name, label=label, approach=approach, config=smaller, needs=needs)


def _risk(option: Scored) -> int:
    name = option.candidate.name
    return _RISK.index(name) if name in _RISK else len(_RISK)


def _step(now: Scored, found: Scored) -> Step:
    candidate = found.candidate
    return Step(
        name=candidate.name,
        label=candidate.label,
        approach=candidate.approach,
        fits=found.fits,
        memory_bytes=found.memory_bytes,
        weight_bytes=found.weight_bytes,
        ttft_s=found.floors.prefill.seconds,
        tpot_s=found.floors.decode.seconds,
        request_s=found.request_s,
        gain=gain(now, found),
        statement=_statement(now, found),
    )


def _statement(now: Scored, found: Scored) -> str:
    ratio = gain(now, found)
    told = f"{found.candidate.label}: memory {size(now.memory_bytes)} -> {size(found.memory_bytes)}"
    if not now.fits:
        told += ", and it fits" if found.fits else ", which still does not fit"
    told += f"; a batch takes {duration(now.request_s)} -> {duration(found.request_s)}"
    if ratio >= 1.05:
        told += f" ({times(ratio)} faster)"
    elif ratio <= 0.95:
        told += f" ({times(1 / ratio)} slower)"
    needs = f" Needs {found.candidate.needs}." if found.candidate.needs else ""
    return f"{told}; then {binding_of(found)} binds.{needs}"


def binding_of(found: Scored) -> str:
    """What most of a batch's time is spent on."""
    if not found.fits:
        return "memory"
    floors, workload = found.floors, found.target.workload
    steps = workload.output_tokens - 1
    decoding = {name: seconds * steps for name, seconds in floors.decode.shares.items()}
    total = {name: seconds + decoding[name] for name, seconds in floors.prefill.shares.items()}
    return NAMES[max(total, key=lambda name: total[name])]
