"""One verdict an approach: whether it relieves what binds, and what its best lever would give."""

from __future__ import annotations

from paretune.profiles.candidates import SPARSE_GENERATIONS, Approach
from paretune.profiles.levers import TIERS, best_lever, binding_of, gain, levers
from paretune.profiles.scored import Scored
from paretune.profiles.wording import duration, share, size, times
from paretune.spaces.schema import Frozen

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
    return tuple(_verdict(dense, approach) for approach in TIERS)


def _verdict(dense: Scored, approach: Approach) -> Verdict:
    best, verb = best_lever(dense, approach), _VERBS[approach]
    extra = f" {_unstructured(dense)}" if approach == "prune" else ""
    if best is None:
        return Verdict(approach=approach, fits=False, best=None, statement=_no_use(dense, approach) + extra)
    label = best.candidate.label
    told = f"{verb} fits what binds ({binding_of(dense)}). {label[0].upper()}{label[1:]}: "
    told += f"{size(best.memory_bytes)} of memory instead of {size(dense.memory_bytes)}"
    if not dense.fits:
        told += ", so that it fits" if best.fits else ", which alone is not enough"
    told += f", and a batch in {duration(best.request_s)} instead of {duration(dense.request_s)}"
    ratio = gain(dense, best)
    told += f", {times(ratio)} faster at most." if ratio >= 1.05 else "."
    if best.candidate.needs:
        told += f" It needs {best.candidate.needs}."
    return Verdict(approach=approach, fits=True, best=best.candidate.name, statement=told + extra)


def _no_use(dense: Scored, approach: Approach) -> str:
    verb, binds = _VERBS[approach], binding_of(dense)
    options = [Scored(dense.target, lever) for lever in levers(dense.target, dense.candidate, approach)]
    if not options:
        return f"{verb} does not fit what binds ({binds}): {_why_none(dense, approach)}."
    best = min(options, key=lambda option: option.request_s if dense.fits else option.memory_bytes)
    if not dense.fits:
        return (
            f"{verb} does not fit what binds ({binds}): at best ({best.candidate.label}) it needs "
            f"{size(best.memory_bytes)}."
        )
    saved = 1 - best.request_s / dense.request_s
    told = f"saves {share(saved, 1)} of the time" if saved >= 0 else f"costs {share(-saved, 1)} more time"
    return f"{verb} does not fit what binds ({binds}): at best ({best.candidate.label}) it {told} of a batch."


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
        f"{share(index, index + value)} zeros."
    )
