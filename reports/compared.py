"""``compared.json``: models that were judged as the front was, but not searched.

An existing quantized checkpoint, or a sibling of another size, on the report text and the tasks of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from paretune.evaluators.bits_per_byte import from_perplexity
from paretune.reports.comparison import front_members, task_names
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import RunError
from paretune.spaces.measurement import Measurement
from paretune.spaces.numerals import change, measured, signed
from paretune.spaces.result import FrontFile, Member, RunDocument
from paretune.spaces.schema import Document, Frozen
from paretune.spaces.statistics import Difference, difference

FILE = "compared.json"
_COSTS = {"weight_bytes": "size", "memory_bytes": "memory"}
_QUALITY = {
    "kl": "KL (nat)",
    "top1_agreement": "same top",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
}
_RATIOS = (*_COSTS, "perplexity")
"""Compared by ratio: sizes are exact, and the perplexities of windows do not average to that of the text."""


class ComparedModel(Frozen):
    """One model beside the front.

    Attributes:
        label: what it is called in tables and figures; one row per label.
        source: folder, file or hub id, as the user named it.
        hash: SHA-256 of its weights and ``config.json``.
        numbers: how its weights are stored, in words (``compressed-tensors``, ``bfloat16``).
        loaded_by: library that ran it, with its version.
        same_tokenizer: whether its tokens mean what the run's do; if not, it has no KL and no perplexity.
        measurements: by column name: those of ``front.csv`` that could be read, and ``bits_per_byte``.
        notes: what could not be measured, and why.
    """

    label: str
    source: str
    hash: str
    numbers: str
    loaded_by: str
    same_tokenizer: bool
    measurements: dict[str, Measurement]
    notes: tuple[str, ...] = ()

    def value(self, column: str) -> float | None:
        """The value in a column, ``None`` where nothing was measured."""
        found = self.measurements.get(column)
        return None if found is None else found.value

    def as_row(self) -> Member:
        """As a row that comparisons and figures understand; the configuration of it says nothing."""
        return Member(
            digest=self.hash, name=self.label, kind="probe", on_front=False, config=DENSE_CONFIG,
            measurements=self.measurements,
        )  # fmt: skip

    def words(self) -> tuple[str, ...]:
        """What it is, for people: source, numbers, library, what is missing."""
        return (self.source, f"{self.numbers}, run by {self.loaded_by}", *self.notes)


class ComparedFile(Document):
    """``compared.json``.

    Attributes:
        hashes: ``model`` and ``text.report`` of the run: rows of another model or text are no comparison.
        predicted_tokens: of each window of the report text: all but the first.
        window_bytes: of each window, the UTF-8 bytes that these stand for.
        models: in the order in which they were first compared.
    """

    hashes: dict[str, str]
    predicted_tokens: int
    window_bytes: tuple[int, ...]
    models: tuple[ComparedModel, ...] = ()

    def with_model(self, model: ComparedModel) -> ComparedFile:
        """With one row more; a row of the same label gives way and keeps its place."""
        rows = {row.label: row for row in self.models} | {model.label: model}
        return self.model_copy(update={"models": tuple(rows.values())})

    def check_run(self, run: RunDocument, place: str) -> None:
        """Refuse rows that were judged beside another dense model or on another text.

        Raises:
            RunError: names what differs.
        """
        for name, digest in self.hashes.items():
            if run.hashes.get(name) != digest:
                raise RunError(
                    place,
                    f"was made with another {name} than run.json names",
                    "Delete it and compare again",
                )


def compared_hashes(run: RunDocument) -> dict[str, str]:
    """What a comparison is tied to."""
    return {name: run.hashes[name] for name in ("model", "text.report") if name in run.hashes}


def nearest_member(front: FrontFile, weight_bytes: float) -> Member | None:
    """The member of the front whose bytes are nearest, by ratio."""

    def distance(member: Member) -> float:
        return abs(math.log((member.value("weight_bytes") or 1.0) / weight_bytes))

    return min(front_members(front), key=distance, default=None)


def member_bits_per_byte(file: ComparedFile, member: Member) -> Measurement | None:
    """Bits per byte of a member, from the perplexity of its windows; ``None`` where these are not known."""
    return from_perplexity(member.measurements.get("perplexity"), file.predicted_tokens, file.window_bytes)


@dataclass(frozen=True)
class ComparedRow:
    """One quantity of both.

    Attributes:
        heading: what it is.
        own, nearest: numbers for people, empty where nothing was measured.
        gap: compared model less member, with its paired standard error where windows or items are common.
        clear: whether its interval (95 %) leaves zero out.
    """

    heading: str
    own: str
    nearest: str
    gap: str = ""
    clear: bool = False


@dataclass(frozen=True)
class Beside:
    """A compared model and its neighbour on the front, ``None`` where the front has no sizes."""

    model: ComparedModel
    member: Member | None
    rows: tuple[ComparedRow, ...]


def beside_front(file: ComparedFile | None, front: FrontFile) -> tuple[Beside, ...]:
    """Each compared model beside the member that is nearest in bytes; empty where nobody compared any."""
    return () if file is None else tuple(_beside(file, front, model) for model in file.models)


def _beside(file: ComparedFile, front: FrontFile, model: ComparedModel) -> Beside:
    """Everything that either was measured for."""
    member = nearest_member(front, model.value("weight_bytes") or 1.0)
    other = {} if member is None else dict(member.measurements)
    bits = None if member is None else member_bits_per_byte(file, member)
    if bits is not None:
        other["bits_per_byte"] = bits
    tasks = {f"task.{name}": name for name in task_names(front)}
    rows = [
        _row(column, heading, model.measurements.get(column), other.get(column))
        for column, heading in {**_COSTS, **_QUALITY, **tasks}.items()
        if column in model.measurements or column in other
    ]
    return Beside(model, member, tuple(rows))


def _row(column: str, heading: str, own: Measurement | None, other: Measurement | None) -> ComparedRow:
    shown = ComparedRow(heading, _text(own), _text(other))
    if own is None or other is None:
        return shown
    if column in _RATIOS:
        return replace(shown, gap=change(own.value / other.value) if other.value else "")
    gap = difference(own, other)
    return replace(shown, gap=_gap(gap), clear=gap.clear)


def _text(found: Measurement | None) -> str:
    return "" if found is None else measured(found).removesuffix(" nat").removesuffix(" bit")


def _gap(gap: Difference) -> str:
    words = signed(gap.value, gap.stderr)
    return words if gap.paired or gap.stderr is None else f"{words} (unpaired)"
