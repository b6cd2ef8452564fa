"""``records.jsonl``: a line per evaluation, append-only, flushed to disk before the next begins.

A process killed while it wrote leaves a torn last line, which is dropped when the run is resumed; everything before it
is kept and never evaluated again. Anything else that no search has written is refused: a line whose checksum differs,
one in the place of another, one twice, a configuration that is not there, a value that cannot be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paretune.search.record_lines import Configurations, damaged, read_sealed, sealed
from paretune.spaces.errors import ParetuneError
from paretune.spaces.files import append_line, drop_torn_line
from paretune.spaces.interrupts import uninterrupted
from paretune.spaces.measurement import EVALUATION_TOKENS, Fidelity, Measurement, Record, Sample

FILE = "records.jsonl"
_ROUNDED = -1e-6
"""A KL of nothing is 0 up to the rounding of sums of probabilities."""
_RANGES = {
    "kl": (_ROUNDED, math.inf),
    "kl_p99": (_ROUNDED, math.inf),
    "top1_agreement": (0.0, 1.0),
}
"""By metric; whatever else is not a task is a size, a time, an energy or a perplexity, and not below 0."""


class RecordFile:
    """The records of a run folder, read once and then only appended to.

    Args:
        folder: of the run.
        versions: of what measures now, see :attr:`Record.versions`; empty where records are only read.

    Raises:
        RunError: the file is damaged, or its records were measured by other versions.
    """

    def __init__(self, folder: Path, versions: str = "") -> None:
        self.path = folder / FILE
        self.versions = versions
        self._records: list[Record] = []
        self._by_reading: dict[tuple[str, str], Record] = {}
        self._read_tokens: dict[tuple[str, str], int] = {}
        self._first: dict[str, Record] = {}
        self._samples: dict[str, Sample] = {}
        self._configurations = Configurations(folder)
        if self.path.exists():
            drop_torn_line(self.path)
        for place, values in read_sealed(self.path):
            self._keep(self._checked(place, values))

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def find(self, digest: str, fidelity: Fidelity) -> Record | None:
        """The record of this candidate at exactly this fidelity."""
        return self._by_reading.get((digest, fidelity.name))

    def read_tokens(self, digest: str, text: str) -> int:
        """Tokens of a text that were read with this candidate so far."""
        return self._read_tokens.get((digest, text), 0)

    def append(self, record: Record) -> Record:
        """Write a record and keep it; both or neither, whatever interrupts.

        Raises:
            RunError: the disk is full; nothing of the line stays in the file.
        """
        with uninterrupted():
            self._configurations.keep(record.config)
            append_line(self.path, sealed(record_values(record, self._samples.get(record.fidelity.name))))
            self._keep(record)
        return record

    def counts(self) -> dict[str, int]:
        """How many records each sampler has."""
        return dict(Counter(record.sampler for record in self._records))

    @property
    def evaluations(self) -> float:
        """Spent on all texts so far, in units of 16,384 tokens."""
        return sum(record.evaluations for record in self._records)

    def evaluations_on(self, text: str) -> float:
        """Spent on one text so far."""
        return sum(record.evaluations for record in self._records if record.fidelity.text == text)

    def seconds_on(self, text: str) -> float:
        """Spent on scoring on one text so far."""
        return sum(record.seconds for record in self._records if record.fidelity.text == text)

    def _keep(self, record: Record) -> None:
        self._records.append(record)
        self._first.setdefault(record.digest, record)
        self._by_reading[record.digest, record.fidelity.name] = record
        sample = shared_sample(record)
        if sample is not None:
            self._samples.setdefault(record.fidelity.name, sample)
        key = record.digest, record.fidelity.text
        self._read_tokens[key] = max(record.fidelity.tokens, self._read_tokens.get(key, 0))

    # -- reading ------------------------------------------------------------------------------------------------

    def _checked(self, place: str, values: dict[str, Any]) -> Record:
        if values.get("index") != len(self._records):
            raise damaged(
                place, f"has index {values.get('index')}, and {len(self._records)} lines stand before it"
            )
        config = self._configurations.get(str(values.get("digest")))
        if config is None:
            raise damaged(place, f"points to a configuration that {self._configurations.path.name} lacks")
        try:
            known = self._samples.get(Fidelity.model_validate(values.get("fidelity")).name)
            record = Record.model_validate({**_with_windows(values, known), "config": config})
        except (ValidationError, ParetuneError, AttributeError, TypeError) as error:
            raise damaged(place, "is not a record of this version") from error
        if self.versions and record.versions != self.versions:
            raise damaged(
                place, f"was measured by {record.versions or 'other versions'}, this is {self.versions}"
            )
        rule = self._fault(record)
        if rule:
            raise damaged(place, rule)
        return record

    def _fault(self, record: Record) -> str:
        """What cannot be of a record after those that are known; empty where nothing is wrong."""
        fidelity = record.fidelity
        wrong = {
            f"reads a candidate on {fidelity.name} once more": self.find(record.digest, fidelity) is not None,
            f"pays for {record.tokens} of {fidelity.tokens} tokens": not 0
            <= record.tokens
            <= fidelity.tokens,
            f"reads {fidelity.tokens} tokens": fidelity.tokens < 1,
            f"counts {record.tokens} tokens as {record.evaluations} evaluations": not (
                record.tokens / EVALUATION_TOKENS <= record.evaluations < math.inf
            ),
            f"took {record.seconds} seconds": not 0 <= record.seconds < math.inf,
        }
        rules = [rule for rule, broken in wrong.items() if broken]
        rules += [_out_of_range(name, found, fidelity) for name, found in record.measurements.items()]
        return next(filter(None, [*rules, self._another_cost(record)]), "")

    def _another_cost(self, record: Record) -> str:
        """Sizes and predicted times are functions of the configuration: two of one are two predictors."""
        first = self._first.get(record.digest)
        for name, found in record.measurements.items():
            before = None if first is None else first.measurements.get(name)
            if found.n == 0 and before is not None and before.value != found.value:
                return f"has {name} {found.value}, and an earlier line of the same candidate {before.value}"
        return ""


def shared_sample(record: Record) -> Sample | None:
    """The windows behind a record, where all that was read on windows was read on the same; not the items of tasks."""
    samples = {found.sample for found in record.measurements.values() if _has_windows(found)}
    return samples.pop() if len(samples) == 1 else None


def _has_windows(found: Measurement) -> bool:
    return found.sample is not None and found.sample.unit == "window"


def record_values(record: Record, known: Sample | None = None) -> dict[str, Any]:
    """A record as it is written: without its configuration and what is left at its default, its windows once.

    Args:
        record: whatever it is.
        known: windows of an earlier record at this fidelity; they are left out where they are these.
    """
    shared = shared_sample(record)
    values = record.model_dump(mode="json", exclude={"config", "measurements"}, exclude_defaults=True)
    return values | {
        "schema_version": record.schema_version,
        "fidelity": record.fidelity.model_dump(mode="json"),
        "measurements": {
            name: found.model_dump(
                mode="json",
                exclude_defaults=True,
                exclude={"sample"} if shared is not None and found.sample == shared else None,
            )
            for name, found in record.measurements.items()
        },
        **(
            {}
            if shared is None or shared == known
            else {"sample": shared.model_dump(mode="json", exclude_defaults=True)}
        ),
    }


def _with_windows(values: dict[str, Any], known: Sample | None) -> dict[str, Any]:
    """The values of a line with the windows, its own or those of its fidelity, in every measurement that has parts."""
    sample = values.pop("sample", known)
    for found in values.get("measurements", {}).values() if sample is not None else ():
        if "per_window" in found or "tails" in found:
            found.setdefault("sample", sample)
    return values


def _out_of_range(name: str, found: Measurement, fidelity: Fidelity) -> str:
    metric = name.removesuffix("_predicted")
    least, most = _RANGES.get(metric, (-math.inf if metric.startswith("task.") else 0.0, math.inf))
    if not least <= found.value <= most or not math.isfinite(found.value):
        return f"has {name} {found.value}, which is not between {least} and {most}"
    if found.stderr is not None and not 0 <= found.stderr < math.inf:
        return f"has {name} with a standard error of {found.stderr}"
    parts = found.per_window
    if parts is not None and not all(map(math.isfinite, parts)):
        return f"has {name} with a part that is no finite number"
    if parts is not None and _has_windows(found) and len(parts) != fidelity.windows:
        return f"has {name} of {len(parts)} windows, and {fidelity.windows} were read"
    return ""


def read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lines of ``records.jsonl`` as they stand, checked by their checksums and places alone.

    Raises:
        RunError: a line was changed, lost or moved.
    """
    for number, (place, values) in enumerate(read_sealed(path)):
        if values.get("index") != number:
            raise damaged(place, f"has index {values.get('index')}, and {number} lines stand before it")
        yield place, values
