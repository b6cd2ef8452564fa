"""``compared.json``: models that were judged as the front was, but not searched.

An existing quantized checkpoint, or a sibling of another size, on the report text and the tasks of the run.
"""

from __future__ import annotations

import math

from paretune.evaluators.bits_per_byte import from_perplexity
from paretune.reports.comparison import front_members
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import RunError
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import FrontFile, Member, RunDocument
from paretune.spaces.schema import Document, Frozen

FILE = "compared.json"


class ComparedModel(Frozen):
    """One model beside the front.

    Attributes:
        label: what it is called in tables and figures; one row a label.
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
