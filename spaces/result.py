"""What a run leaves for people and pipelines: the schemas of ``front.json`` and ``run.json``.

Stable and versioned; ``front.csv`` is the flat form of ``front.json``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import FusedGroup
from paretune.spaces.measurement import Measurement
from paretune.spaces.schema import Document, Frozen

FRONT_COLUMNS = (
    "digest",
    "name",
    "average_bits",
    "weight_bytes",
    "memory_bytes",
    "kl",
    "kl_stderr",
    "kl_p99",
    "top1_agreement",
    "perplexity",
    "ttft_s",
    "tpot_s",
    "energy_j_per_token",
)
"""Leading columns of ``front.csv``; then ``kl_search``, ``*_predicted``, ``task.NAME`` with its stderr."""


class Member(Frozen):
    """One row: a member of the front, or a baseline beside it.

    Attributes:
        digest: of ``config``.
        name: ``dense``, ``uniform-4``, or a generated name.
        kind: ``front``; ``baseline`` for dense and uniform rows; ``probe`` for pruned models and sparse candidates
            that were tried on purpose; a baseline may be on the front too, see ``on_front``.
        on_front: whether it is a member of the reported front: nothing dominates it on the report text, and it was
            kept when the front was thinned.
        equivalence_class: members with one number cannot be told apart by two paired standard errors.
        measurements: by column name: metrics read on the report text, ``kl_search``, ``NAME_predicted``,
            ``task.NAME``.
        note: why it wins or loses, where that was asked.
    """

    digest: str
    name: str
    kind: Literal["front", "baseline", "probe"]
    on_front: bool
    equivalence_class: int | None = None
    config: CompressionConfig
    measurements: dict[str, Measurement]
    note: str = ""

    def value(self, column: str) -> float | None:
        """The value in a column, ``None`` where nothing was measured."""
        found = self.measurements.get(column)
        return None if found is None else found.value


class FrontFile(Document):
    """``front.json``.

    Attributes:
        objectives: metric names, quality first.
        limits: as the user wrote them.
        reference_point: by objective; fixed when the run starts.
        hypervolume: dominated volume on the report text, in units of the objectives.
        recommended: name of the member recommended, and why.
        members: front first, best quality first; then baselines and probes.
    """

    objectives: tuple[str, ...]
    limits: tuple[str, ...] = ()
    reference_point: dict[str, float]
    hypervolume: float
    recommended: str
    recommended_reason: str = ""
    members: tuple[Member, ...]


class LatencyCheck(Frozen):
    """Predicted beside measured for one candidate: they are different columns, never mixed."""

    name: str
    digest: str
    predicted_s: float
    measured_s: float
    note: str = ""


class RunDocument(Document):
    """``run.json``: everything needed to read the other files, or to run again.

    Attributes:
        model: source, architecture, parameters, dtype, hash.
        engine, device, workload: where and for what.
        settings: of the run file, complete with defaults.
        versions: of Paretune and of the libraries that make numbers.
        hashes: ``model``, ``bank``, ``texts`` ...
        texts: name -> {path, digest, windows, window_tokens}.
        kl_mode: ``full`` or ``top-k`` (DESIGN: full while tokens x vocabulary x 2 bytes fit 1 GiB).
        tasks: name -> {items, chance, ...}.
        latency_checks: predicted against measured decode latency.
        spent: seconds by stage (``start``, ``bank``, ``profile``, ``search``, ``tasks``, ``export`` ...).
        evaluations: spent, in units of 16,384 tokens.
        records: how many lines ``records.jsonl`` has, by sampler.
        groups: the engine's partition of the layers; rows and columns of the layer map.
        refused: what the space does not hold, by parameter and choice, and why.
        export: what was exported and verified: {name, folder, weight_bytes, kl_to_candidate, tolerance ...}.
        notes: sentences for people: what was refused and why, what fell short.
    """

    status: Literal["running", "complete", "interrupted"]
    created: str
    model: dict[str, Any]
    engine: str
    engine_version: str = ""
    numeric_path: str = ""
    device: dict[str, Any]
    workload: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    hashes: dict[str, str]
    seed: int
    texts: dict[str, dict[str, Any]]
    kl_mode: str = "full"
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    latency_checks: tuple[LatencyCheck, ...] = ()
    spent: dict[str, float] = Field(default_factory=dict)
    evaluations: float = 0.0
    records: dict[str, int] = Field(default_factory=dict)
    groups: tuple[FusedGroup, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    export: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
