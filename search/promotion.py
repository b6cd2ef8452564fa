"""What the search text chooses: the front, what it is seen beside, the recommended configuration; then the report text.

All of it is decided among candidates that were read on the same windows of the search text. The report text is read
with what was chosen and changes nothing of it: what it says stands beside what the search text promised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paretune.search.pareto import Candidate, ParetoFront, log_volume
from paretune.search.scoring import signed, value_of
from paretune.search.study import PROBES, Progress, Study
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Record
from paretune.spaces.metrics import find_metric
from paretune.spaces.statistics import Estimate

REFERENCE_BITS = 4
"""The width that most people would take without a search."""


@dataclass(frozen=True)
class Promoted:
    """Search reading and report reading of one candidate."""

    search: Record
    report: Record


@dataclass(frozen=True)
class Promotion:
    """What was chosen on the search text, and read on the report text.

    Attributes:
        reference: loss and costs that volumes are measured from.
        members: of the front, thinned; best quality first.
        recommended: the member to take; ``None`` where nothing meets the limits.
        reason: why it is that one.
        rows: the members, the dense model, uniform configurations and probes.
    """

    reference: tuple[float, ...]
    members: tuple[Candidate, ...]
    recommended: Candidate | None
    reason: str
    rows: tuple[Promoted, ...]


def promote(study: Study, progress: Progress | None = None) -> Promotion:
    """Choose on the search text, then read what was chosen on the whole report text.

    Beside the front stand the dense model, the plain uniform configurations, those that none other of their width
    beats, and the best probes.
    """
    for record in study.worth_more(list(study.records)):
        # Read already, unless the budget ended before.
        study.scorer.score_config(record.name, record.config, record.sampler, study.candidate)
    rows = {
        r.digest: r for r in study.records
        if r.fidelity == study.candidate and r.sampler != "marginal" and not r.broken
    }  # fmt: skip
    candidates = {digest: as_candidate(study, record, rows) for digest, record in rows.items()}
    limits = study.settings.parsed_limits
    within = [
        c for c in candidates.values()
        if c.meets(limits) and (study.holds_dense or c.digest != DENSE_CONFIG.digest)
    ]  # fmt: skip
    front = ParetoFront(within, reference(study))
    # What breaks a limit on costs is not read further: nobody may take it.
    allowed = {
        d for d, r in rows.items()
        if (d in study.uniform or r.sampler == "probe") and study.scorer.admissible(study.space.encode(r.config))
    }  # fmt: skip
    rivals = _rivals(study, {digest: candidates[digest] for digest in candidates if digest in allowed})
    recommended, reason = recommend(front, rivals, study)
    shown = front.thinned(
        study.settings.front_members,
        _cheapest_by_width(study, rivals),
        [] if recommended is None else [recommended.digest],
    )
    probes = sorted(
        (r for digest, r in rows.items() if r.sampler == "probe" and digest in allowed),
        key=lambda r: candidates[r.digest].values,
    )
    digests = [
        DENSE_CONFIG.digest,
        *(c.digest for c in (*rivals, *shown)),
        *(r.digest for r in probes[:PROBES]),
    ]
    chosen = [rows[digest] for digest in dict.fromkeys(digests) if digest in rows]
    found = []
    for done, record in enumerate(chosen):
        if progress is not None:
            progress(record.name, done, len(chosen), None)
        kind = record.sampler if record.sampler in ("baseline", "probe") else "promotion"
        read = study.scorer.score_config(record.name, record.config, kind, study.fidelity("report"))
        if not read.broken:
            found.append(Promoted(record, read))
    kept = {row.report.digest for row in found}
    if recommended is not None and recommended.digest not in kept:
        reason = f"{recommended.name} has no quality on the report text"
        recommended = None
    members = tuple(member for member in shown if member.digest in kept)
    return Promotion(front.reference, members, recommended, reason, tuple(found))


def as_candidate(study: Study, record: Record, rows: dict[str, Record]) -> Candidate:
    """A record beside the dense model's reading of the same windows, which is among ``rows`` (by digest)."""
    quality, *costs = study.settings.objectives
    dense = rows[DENSE_CONFIG.digest].measurements[quality].value
    found = record.measurements
    return Candidate(
        name=record.name,
        digest=record.digest,
        values=(
            find_metric(quality).loss(found[quality].value, dense),
            *(signed(metric, value_of(found, metric)) for metric in costs),
        ),
        quality=found[quality],
        metrics={name: m.value for name, m in found.items()},
        reaches={name: Estimate.of(m).reach for name, m in found.items()},
    )


def reference(study: Study) -> tuple[float, ...]:
    """The corner that volumes are measured from; it depends on the model alone, so it never moves.

    Loss: that of a uniform guess over the vocabulary, log of its size; 1 for a share. Costs: those of the dense model.
    """
    quality, *costs = study.settings.objectives
    nats = quality in ("kl", "kl_p99", "perplexity")
    known = study.scorer.costs(DENSE_CONFIG)
    loss = math.log(study.space.spec.vocabulary) if nats else 1.0
    return (loss, *(value_of(known, metric) for metric in costs))


def recommend(front: ParetoFront, rivals: Sequence[Candidate], study: Study) -> tuple[Candidate | None, str]:
    """The member to take, and why; none where nothing meets the limits.

    With a limit on a quality: the cheapest member that meets it with its error. With limits on costs alone: the best
    quality within them. Without limits: the cheapest that is at least as good as the best uniform configuration of
    4 bits, or of the width nearest to it. The dense model only where nothing else will do.
    """
    limits = study.settings.parsed_limits
    members = [m for m in front.members if m.digest != DENSE_CONFIG.digest] or list(front.members)
    label = find_metric(study.settings.objectives[0]).label
    if not members:
        return None, "nothing met the limits on the search text"
    within = ", ".join(limit.text for limit in limits)
    on_quality = [limit for limit in limits if find_metric(limit.metric).family == "quality"]
    if on_quality:
        sure = [m for m in members if m.meets(on_quality, clearly=True)]
        if sure:
            return min(sure, key=_cost(front)), f"the cheapest that meets {within} with its interval of 95 %"
        return _safest(
            members, on_quality
        ), f"meets {within}, though no member does so with its interval of 95 %"
    if limits:
        return members[0], f"the best {label} within {within}"
    usual = _usual(study, rivals)
    good = [m for m in members if usual is not None and m.values[0] <= usual.values[0]]
    if usual is not None and good:
        bits = study.uniform[usual.digest].bits
        reason = f"the cheapest member that is at least as good as the best of {bits} bits everywhere ({usual.name})"
        return min(good, key=_cost(front)), reason
    balanced = max(members, key=lambda member: log_volume([member.values], front.reference))
    return balanced, "the member that dominates most by itself; no uniform configuration is beside it"


def _safest(members: Sequence[Candidate], limits: Sequence[Limit]) -> Candidate:
    """The member that is farthest within the limits."""
    return min(members, key=lambda m: max(limit.violation(m.value(limit.metric)) for limit in limits))


def _cost(front: ParetoFront) -> Callable[[Candidate], float]:
    """Cheapness in all costs: their product, as shares of the dense model's."""
    return lambda member: math.fsum(
        math.log(max(own, 1e-300) / full)
        for own, full in zip(member.values[1:], front.reference[1:], strict=True)
    )


def _usual(study: Study, rivals: Sequence[Candidate]) -> Candidate | None:
    """The best uniform configuration of the width nearest to 4 bits (the wider of two)."""

    def rank(rival: Candidate) -> tuple[float, float]:
        return abs(study.uniform[rival.digest].bits - REFERENCE_BITS - 0.25), rival.values[0]

    return min(rivals, key=rank, default=None)


def _rivals(study: Study, candidates: dict[str, Candidate]) -> list[Candidate]:
    """Uniform configurations: the plain ones, and those that none other of their width beats."""
    kept: dict[str, Candidate] = {}
    for bits in dict.fromkeys(made.bits for made in study.uniform.values()):
        rows = [c for d, c in candidates.items() if (made := study.uniform.get(d)) and made.bits == bits]
        front = {member.digest for member in ParetoFront(rows, reference(study)).members}
        kept |= {c.digest: c for c in rows if c.digest in front or study.uniform[c.digest].plain}
    return list(kept.values())


def _cheapest_by_width(study: Study, rivals: Sequence[Candidate]) -> list[tuple[float, ...]]:
    """Costs of the cheapest rival of every width, where the front will be compared with it."""
    found: dict[int, tuple[float, ...]] = {}
    for rival in rivals:
        bits = study.uniform[rival.digest].bits
        found[bits] = min(rival.values[1:], found.get(bits, rival.values[1:]))
    return list(found.values())
