"""Advice without a search: from ``config.json`` and a data sheet, in seconds.

Every sentence is made of numbers computed here: bytes by :mod:`paretune.spaces.size`, times by
:mod:`paretune.profiles.roofline`.
"""

from __future__ import annotations

from paretune.profiles.candidates import DENSE, USABLE_SHARE, Scored, Target, uniform_candidates
from paretune.profiles.levers import Costs, Step, Verdict, costs_of, find_verdicts, order_to_try
from paretune.profiles.roofline import RESOURCES, PhaseCost, Resource, compute_bound_tokens
from paretune.profiles.slowdown import slowdowns
from paretune.spaces.model import ModelSpec
from paretune.spaces.numerals import percent, quantity
from paretune.spaces.schema import Document, Frozen
from paretune.spaces.target import Device, Workload


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


class FormatAdvice(Costs):
    """What one uniform format would give.

    Attributes:
        largest_batch: sequences of the workload's lengths that fit; 0: none.
        largest_context: tokens that the workload's batch can have, at most the model's; 0: none.
        prefill, decode: where the time goes.
        slower: whether and how it can be slower than the model as it is; empty where nothing says so.
        needs: what it asks of the engine.
    """

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
        ConfigurationError: the workload is longer than the model's context, or heads cannot be divided.
    """
    target = Target(spec.model_copy(update={"shipped": None}), device, workload)
    dense = Scored(target, DENSE)
    scored = [Scored(target, candidate) for candidate in uniform_candidates(spec, device)]
    return Advice(
        model=spec.source,
        architecture=spec.architecture,
        parameters=spec.parameters,
        dtype=spec.dtype,
        device=device,
        workload=workload,
        usable_bytes=target.usable_bytes,
        binding=find_binding(dense),
        formats=tuple(_format(dense, each) for each in scored),
        verdicts=find_verdicts(dense),
        order=order_to_try(target),
        notes=(*_shipped(spec), *_notes(target)),
    )


def _shipped(spec: ModelSpec) -> tuple[str, ...]:
    if spec.shipped is None:
        return ()
    return (
        f"The checkpoint ships quantized ({spec.shipped.method}) in {quantity(spec.shipped.weight_bytes, 'B')}; as it "
        f"is means here: dequantized to {spec.dtype}.",
    )


def _format(dense: Scored, found: Scored) -> FormatAdvice:
    return FormatAdvice(
        **costs_of(found),
        largest_batch=found.largest_batch,
        largest_context=found.largest_context,
        prefill=found.floors.prefill,
        decode=found.floors.decode,
        slower=() if found.candidate.approach == "dense" else slowdowns(dense, found),
        needs=found.candidate.needs,
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
        f"A batch takes at least {quantity(dense.request_s, 's')} from prompts to last tokens, "
        f"{percent(max(decoding, floors.prefill.seconds) / dense.request_s)} of it in {phase}: "
        f"{RESOURCES[cost.binds]}, is what binds most.",
        *_turning_point(dense),
        *_cached(dense),
    )
    if not dense.fits:
        return Binding(resource="memory", phase=None, statements=statements)
    return Binding(resource=cost.binds, phase=phase, statements=statements)


def _memory(dense: Scored) -> str:
    device, room = dense.target.device, dense.target.usable_bytes
    verdict = "does not bind" if dense.fits else "binds, the model does not fit"
    each = " on each device" if dense.target.workload.tensor_parallel > 1 else ""
    return (
        f"Memory {verdict}: {quantity(dense.memory_bytes, 'B')} for weights, cache and activations{each}, "
        f"{quantity(room, 'B')} usable ({100 * USABLE_SHARE:.0f} % of {quantity(device.memory_bytes, 'B')})."
    )


def _phase(what: str, cost: PhaseCost, dense: Scored) -> str:
    parts = sorted(cost.shares.items(), key=lambda item: -item[1])
    told = [
        f"{RESOURCES[name]}: {quantity(s, 's')} ({percent(s / cost.seconds)})"
        for name, s in parts
        if s > 0.05 * cost.seconds
    ]
    return (
        f"{what} takes at least {quantity(cost.seconds, 's')}: {'; '.join(told)}. It reads "
        f"{quantity(cost.read_bytes, 'B')}, does {quantity(cost.operations, 'operations')} "
        f"in {dense.case.dense_arithmetic} and starts {cost.kernels:,} kernels."
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
        f"What decode reads ({quantity(read, 'B')}) fits the cache ({quantity(cache, 'B')}): bandwidth "
        "can be better than memory's, and these times shorter.",
    )
