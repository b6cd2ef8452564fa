"""What to try: the levers of each approach, the order to try them in, and a verdict on each approach by itself.

The order is greedy. What needs no training comes first, what needs recovery next, a pruned model last; inside a
tier the largest gain on a whole batch wins. After each step the gains of what is left are computed again on
top of what was chosen, because another resource may bind then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from paretune.profiles.candidates import (
    DENSE,
    SPARSE_GENERATIONS,
    Approach,
    Candidate,
    Scored,
    Target,
    eight_bit_cache,
    half_zeros,
    smaller_pruned,
    uniform_candidates,
)
from paretune.profiles.roofline import RESOURCES
from paretune.spaces.numerals import percent, quantity, times
from paretune.spaces.schema import Frozen

TIERS: dict[Approach, int] = {"quantize": 2, "prune": 1, "pruned": 1}
"""Approaches in the order of trying, and how many steps of each: weights and cache can both be quantized."""
WORTHWHILE = 1.1
"""A step that gains less than a tenth is not worth its loss of quality."""
_RISK = ("int8", "fp8", "int8-both", "kv8", "int4")
"""From the least loss of quality to the most; decides between gains within a tenth of each other."""


class Costs(Frozen):
    """What a candidate costs at the target.

    Attributes:
        name, label: of the candidate; ``dense`` is the model as it is.
        weight_bytes: of the export.
        memory_bytes: weights, cache and activations at the workload, on each device.
        fits: whether that is usable.
        ttft_s, tpot_s, request_s: floors: first token, each further token, a whole batch.
    """

    name: str
    label: str
    weight_bytes: int
    memory_bytes: int
    fits: bool
    ttft_s: float
    tpot_s: float
    request_s: float


def costs_of(found: Scored) -> dict[str, Any]:
    """The fields of :class:`Costs`."""
    return {
        "name": found.candidate.name,
        "label": found.candidate.label,
        "weight_bytes": found.weight_bytes,
        "memory_bytes": found.memory_bytes,
        "fits": found.fits,
        "ttft_s": found.floors.prefill.seconds,
        "tpot_s": found.floors.decode.seconds,
        "request_s": found.request_s,
    }


class Step(Costs):
    """One thing to try, on top of the steps before it; what it costs then.

    Attributes:
        approach: of what is done.
        gain: factor on ``request_s`` against the step before.
        statement: in words.
    """

    approach: Approach
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
        if target.device.generation in SPARSE_GENERATIONS and not candidate.sparse_2_4 and not narrow:
            yield replace(
                candidate,
                name="2:4",
                label="2:4 sparsity",
                approach=approach,
                config=half_zeros(spec, config),
                sparse_2_4=True,
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
    return Step(
        **costs_of(found),
        approach=found.candidate.approach,
        gain=gain(now, found),
        statement=_statement(now, found),
    )


def _statement(now: Scored, found: Scored) -> str:
    ratio = gain(now, found)
    told = f"{found.candidate.label}: memory {quantity(now.memory_bytes, 'B')} -> {quantity(found.memory_bytes, 'B')}"
    if not now.fits:
        told += ", and it fits" if found.fits else ", which still does not fit"
    told += f"; a batch takes {quantity(now.request_s, 's')} -> {quantity(found.request_s, 's')}"
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
    return RESOURCES[max(total, key=lambda name: total[name])]


_VERBS: dict[Approach, str] = {
    "quantize": "Quantizing",
    "prune": "Pruning",
    "pruned": "A smaller pruned model",
}


class Verdict(Frozen):
    """Whether an approach fits what binds the dense model.

    Attributes:
        approach: ``quantize``, ``prune`` or ``pruned``.
        fits: whether its best lever is worthwhile.
        best: name of that lever; ``None`` where there is none.
        statement: in words.
    """

    approach: Approach
    fits: bool
    best: str | None
    statement: str


def find_verdicts(dense: Scored) -> tuple[Verdict, ...]:
    """A verdict on each approach, applied to the dense model alone."""
    found = []
    for approach in TIERS:
        best = best_lever(dense, approach)
        told = f"{_VERBS[approach]} {'does not fit' if best is None else 'fits'} what binds ({binding_of(dense)}): "
        told += _no_use(dense, approach) if best is None else _statement(dense, best)
        told += f" {_unstructured(dense)}" if approach == "prune" else ""
        name = None if best is None else best.candidate.name
        found.append(Verdict(approach=approach, fits=best is not None, best=name, statement=told))
    return tuple(found)


def _no_use(dense: Scored, approach: Approach) -> str:
    """What the best lever of an approach that is not worthwhile would give."""
    options = [Scored(dense.target, lever) for lever in levers(dense.target, dense.candidate, approach)]
    if not options:
        return f"{_why_none(dense, approach)}."
    best = min(options, key=lambda option: option.request_s if dense.fits else option.memory_bytes)
    return f"at best {_statement(dense, best)}"


def _why_none(dense: Scored, approach: Approach) -> str:
    if approach == "prune" and dense.target.device.generation not in SPARSE_GENERATIONS:
        return f"{dense.target.device.name} has no arithmetic for zeros in a pattern (2:4)"
    if approach == "pruned":
        return "this architecture cannot be cut here"
    return "there is nothing to choose"


def _unstructured(dense: Scored) -> str:
    value = dense.target.spec.dtype_bytes
    index = 4
    return (
        "Zeros without a pattern are stored and multiplied like any other weight; as compressed rows (a "
        f"value of {value} B with an index of {index} B) they take fewer bytes only beyond "
        f"{percent(index / (index + value))} zeros."
    )
