"""What a run leaves for people and pipelines: the schemas of ``front.json`` and ``run.json``.

Stable and versioned; ``front.csv`` is the flat form of ``front.json``.
"""

from __future__ import annotations

import math
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

Kind = Literal["dense", "uniform", "probe", "searched"]
"""What a row is: the checkpoint as it came; one width everywhere; a pruned model or zeros, tried on purpose; a
candidate of the sampler."""


class Uniform(Frozen):
    """What a uniform configuration is made of: every linear inside the blocks alike.

    Attributes:
        bits: of the weights inside the blocks.
        method: quantizer, or :attr:`paretune.spaces.choice.LayerChoice.kind` of a named format.
        embedding_bits: of embedding and head.
        kv_bits: of the cache.
        plain: whether it is the first of its width: the first method, embedding and cache as they are where that is
            allowed.
    """

    bits: int
    method: str
    embedding_bits: int = 16
    kv_bits: int = 16
    plain: bool = False


class Member(Frozen):
    """One row: a member of the front, or a row that it must be seen beside.

    Attributes:
        digest: of ``config``.
        name: for people; what a row is stands in ``kind`` and ``uniform``.
        kind: see :data:`Kind`; any row may be on the front too.
        uniform: of a uniform configuration.
        on_front: whether it is a member of the front: nothing dominates it on the search text, it meets every limit
            there, and it was kept when the front was thinned.
        equivalence_class: members with one number cannot be told apart by a paired interval of 95 % on the report
            text.
        config: what it is.
        measurements: by column name: metrics read on the report text, ``NAME_search`` for those of the search text by
            which it was chosen, ``NAME_predicted``, ``task.NAME``.
        log_optimism: log ratio of what is lost to the dense model on the report text and on the search text; ``None``
            where nothing is lost.
        note: why it wins or loses, where that was asked.
    """

    digest: str
    name: str
    kind: Kind
    uniform: Uniform | None = None
    on_front: bool
    equivalence_class: int | None = None
    config: CompressionConfig
    measurements: dict[str, Measurement]
    log_optimism: float | None = None
    note: str = ""

    def value(self, column: str) -> float | None:
        """The value in a column, ``None`` where nothing was measured."""
        found = self.measurements.get(column)
        return None if found is None else found.value


class Optimism(Frozen):
    """How much better the search text makes members look than the report text does.

    A text may simply be harder than another; uniform configurations show by how much, since no search chose them.

    Attributes:
        members: mean over the front of the log ratio (report / search) of what is lost to the dense model.
        uniform: the same over uniform configurations beside the front; ``None`` without any.
        counted: members behind the first.
    """

    members: float
    uniform: float | None = None
    counted: int

    @property
    def factor(self) -> float:
        """What is lost on the report text over what the search text promised, apart from how hard the texts are."""
        return math.exp(self.members - (self.uniform or 0.0))


class Advantage(Frozen):
    """How much less the front loses than the best uniform configuration that costs as much, on the report text.

    Attributes:
        metric: the quality.
        cost: metric along which it is averaged.
        ratio: geometric mean of (loss of the best uniform configuration within a cost) / (loss of the best member
            within it); above 1 the search paid. With several costs the mean is over the uniform configurations
            that none other beats, each beside the members that exceed it in no cost.
        low, high: between which costs, in the unit of ``cost``.
    """

    metric: str
    cost: str
    ratio: float
    low: float
    high: float


class FrontFile(Document):
    """``front.json``.

    Attributes:
        objectives: metric names, quality first.
        limits: as the user wrote them.
        reference_point: by objective: the loss of a uniform guess over the vocabulary (of a share: 1), and the costs
            of the dense model.
        hypervolume: of the members on the report text: the mean over costs, as shares of the dense model's, of the log
            ratio of the reference loss and the loss of the best member within them. Doubling every loss takes
            log 2 times the share of the costs that the front covers from it.
        advantage: the same in words that need no reference.
        optimism: of choosing on the search text.
        recommended: name of the member recommended, and why; decided on the search text.
        members: front first, best quality first; then baselines and probes.
    """

    objectives: tuple[str, ...]
    limits: tuple[str, ...] = ()
    reference_point: dict[str, float]
    hypervolume: float
    advantage: Advantage | None = None
    optimism: Optimism | None = None
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


Ended = Literal["", "minutes", "evaluations", "candidates", "converged", "exhausted"]
"""Why a search ended, see :class:`RunDocument`."""


class RunDocument(Document):
    """``run.json``: everything needed to read the other files, or to run again.

    Attributes:
        model: source, architecture, parameters, dtype, hash.
        engine, device, workload: where and for what.
        settings: of the run file, complete with defaults.
        versions: of Paretune and of the libraries that make numbers.
        hashes: ``model``, ``bank``, ``texts`` ...
        texts: name -> {path, digest, windows, window_tokens}.
        kl_mode: ``full`` or ``top-k``, where predictions of the whole vocabulary would not fit in memory.
        scoring: ``arithmetic`` that candidates are read in, ``kl_floor``: nats that it adds, and the ``device``.
        tasks: name -> {items, chance, ...}.
        latency_checks: predicted against measured decode latency.
        plan: what was announced at the start: ``seconds`` by stage, ``disk_bytes``, ``memory_bytes`` ...
        spent: seconds by stage (``start``, ``bank``, ``profile``, ``search``, ``tasks``, ``export`` ...).
        evaluations: spent, in units of 16,384 tokens.
        ended: why the search ended: ``minutes``, ``evaluations`` or ``candidates``, whose bound it reached;
            ``converged``, the sampler expects nothing better of any point that is left; ``exhausted``, every point was
            proposed. Empty while it runs and where it was interrupted.
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
    scoring: dict[str, Any] = Field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    latency_checks: tuple[LatencyCheck, ...] = ()
    plan: dict[str, Any] = Field(default_factory=dict)
    spent: dict[str, float] = Field(default_factory=dict)
    evaluations: float = 0.0
    ended: Ended = ""
    records: dict[str, int] = Field(default_factory=dict)
    groups: tuple[FusedGroup, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    export: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
