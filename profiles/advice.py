"""Advice without a search: from ``config.json`` and a data sheet, in seconds.

Every sentence is made of numbers computed here: bytes by :mod:`paretune.spaces.size`, times by
:mod:`paretune.profiles.roofline`.
"""

from __future__ import annotations

from paretune.profiles.binding import Binding, find_binding
from paretune.profiles.candidates import DENSE, uniform_candidates
from paretune.profiles.capacity import (
    USABLE_SHARE,
    check_workload,
    largest_batch,
    largest_context,
    usable_bytes,
)
from paretune.profiles.levers import Step, order_to_try
from paretune.profiles.roofline import PhaseCost
from paretune.profiles.scored import Scored, Target
from paretune.profiles.slowdown import slowdowns
from paretune.profiles.verdicts import Verdict, find_verdicts
from paretune.spaces.model import ModelSpec
from paretune.spaces.schema import Document, Frozen
from paretune.spaces.target import Device, Workload


class FormatAdvice(Frozen):
    """What one uniform format would give.

    Attributes:
        name, label: of the format; ``dense`` is the model as it is.
        weight_bytes: of the export.
        memory_bytes: weights, cache and activations at the workload, on each device.
        fits: whether that is usable.
        ttft_s, tpot_s, request_s: floors: first token, each further token, a whole batch.
        largest_batch: sequences of the workload's lengths that fit; 0: none.
        largest_context: tokens that the workload's batch can have, at most the model's; 0: none.
        prefill, decode: where the time goes.
        slower: whether and how it can be slower than the model as it is; empty where nothing says so.
        needs: what it asks of the engine.
    """

    name: str
    label: str
    weight_bytes: int
    memory_bytes: int
    fits: bool
    ttft_s: float
    tpot_s: float
    request_s: float
    largest_batch: int
    largest_context: int
    prefill: PhaseCost
    decode: PhaseCost
    slower: tuple[str, ...]
    needs: str


class Advice(Document):
    """The whole answer, as it is printed and as JSON.

    Attributes:
        model, architecture, parameters, dtype: of the model.
        device: its data sheet.
        workload: batch and lengths.
        usable_bytes: memory on each device that was counted on.
        binding: what binds the model as it is.
        formats: dense first.
        verdicts: on quantizing, pruning and a smaller pruned model.
        order: what to try, one on top of the other.
        notes: what the numbers leave out.
    """

    model: str
    architecture: str
    parameters: int
    dtype: str
    device: Device
    workload: Workload
    usable_bytes: int
    binding: Binding
    formats: tuple[FormatAdvice, ...]
    verdicts: tuple[Verdict, ...]
    order: tuple[Step, ...]
    notes: tuple[str, ...]


def advise(spec: ModelSpec, device: Device, workload: Workload) -> Advice:
    """What binds ``spec`` on ``device`` at ``workload``, and what compression would do about it.

    Raises:
        ConfigurationError: the workload is longer than the model's context.
    """
    check_workload(spec, workload)
    target = Target(spec, device, workload)
    dense = Scored(target, DENSE)
    scored = [Scored(target, candidate) for candidate in uniform_candidates(spec, device)]
    return Advice(
        model=spec.source,
        architecture=spec.architecture,
        parameters=spec.parameters,
        dtype=spec.dtype,
        device=device,
        workload=workload,
        usable_bytes=usable_bytes(device),
        binding=find_binding(dense),
        formats=tuple(_format(dense, each) for each in scored),
        verdicts=find_verdicts(dense),
        order=order_to_try(target),
        notes=_notes(target),
    )


def _format(dense: Scored, found: Scored) -> FormatAdvice:
    spec, device, workload = found.target.spec, found.target.device, found.target.workload
    candidate = found.candidate
    return FormatAdvice(
        name=candidate.name,
        label=candidate.label,
        weight_bytes=found.weight_bytes,
        memory_bytes=found.memory_bytes,
        fits=found.fits,
        ttft_s=found.floors.prefill.seconds,
        tpot_s=found.floors.decode.seconds,
        request_s=found.request_s,
        largest_batch=largest_batch(spec, candidate, device, workload),
        largest_context=largest_context(spec, candidate, device, workload),
        prefill=found.floors.prefill,
        decode=found.floors.decode,
        slower=() if candidate.approach == "dense" else slowdowns(dense, found),
        needs=candidate.needs,
    )


def _notes(target: Target) -> tuple[str, ...]:
    notes = [
        "Times are floors from the data sheet; engines stay above them, by more with small matrices. "
        "`paretune profile` measures on this machine.",
        f"Memory counts on {100 * USABLE_SHARE:.0f} % of the device, and on prompts read in one pass.",
        "Formats cover the linears inside the blocks; embedding and head stay as they are. "
        "How much quality each step costs is what `paretune search` measures.",
        f"Data sheet: {target.device.source}.",
    ]
    if target.workload.tensor_parallel > 1:
        notes.append("What devices say to each other is not counted.")
    if target.spec.experts:
        notes.append("Tokens are taken to spread evenly over the experts.")
    return tuple(notes)
