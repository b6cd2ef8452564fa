"""``front.json``: what the search text chose, with what the report text says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from paretune.search.pareto import Candidate, advantage, equivalence_classes, log_volume
from paretune.search.promotion import Promoted, Promotion, as_candidate
from paretune.search.study import Study
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.files import write_document
from paretune.spaces.measurement import Measurement
from paretune.spaces.metrics import find_metric
from paretune.spaces.result import Advantage, FrontFile, Kind, Member, Optimism

FILE = "front.json"


def build_front(study: Study, promotion: Promotion) -> FrontFile:
    """The front as the search text has it; every row with its values on both texts."""
    objectives = study.settings.objectives
    reports = {p.report.digest: p.report for p in promotion.rows}
    judged = {p.report.digest: as_candidate(study, p.report, reports) for p in promotion.rows}
    promised = {p.search.digest: p for p in promotion.rows}
    searched = {
        d: as_candidate(study, p.search, {q: r.search for q, r in promised.items()})
        for d, p in promised.items()
    }
    places = {member.digest: place for place, member in enumerate(promotion.members)}
    classes = equivalence_classes([judged[digest] for digest in places])
    members = []
    for row in promotion.rows:
        digest = row.report.digest
        kind = _kind(row, study)
        members.append(
            Member(
                digest=digest, name=row.report.name, kind=kind, uniform=study.uniform.get(digest),
                on_front=digest in places, equivalence_class=classes.get(digest), config=row.report.config,
                measurements={**row.report.measurements, **_promises(row)},
                log_optimism=_log_ratio(judged[digest].values[0], searched[digest].values[0]),
                note=_note(judged[digest], list(judged.values()), study) if kind == "probe" else "",
            )
        )  # fmt: skip
    members.sort(key=lambda m: (places.get(m.digest, len(places)), m.kind, m.name))
    shown = [judged[digest].values for digest in places]
    return FrontFile(
        objectives=objectives,
        limits=study.settings.limits,
        reference_point=dict(zip(objectives, promotion.reference, strict=True)),
        hypervolume=log_volume(shown, promotion.reference),
        advantage=_advantage(
            shown, [judged[m.digest].values for m in members if m.kind == "uniform"], objectives
        ),
        optimism=_optimism(members),
        recommended="" if promotion.recommended is None else promotion.recommended.name,
        recommended_reason=promotion.reason,
        members=tuple(members),
    )


def write_front(front: FrontFile, folder: Path) -> Path:
    """Write ``front.json``, whole or not at all."""
    path = folder / FILE
    write_document(path, front)
    return path


def _kind(row: Promoted, study: Study) -> Kind:
    if row.report.digest == DENSE_CONFIG.digest:
        return "dense"
    if row.report.digest in study.uniform:
        return "uniform"
    return "probe" if row.search.sampler == "probe" else "searched"


def _promises(row: Promoted) -> dict[str, Measurement]:
    """What the search text said, under names of its own."""
    return {
        f"{name}_search": found.alone
        for name, found in row.search.measurements.items()
        if not name.endswith("_predicted") and find_metric(name).family == "quality"
    }


def _log_ratio(report: float, search: float) -> float | None:
    return math.log(report / search) if report > 0 and search > 0 else None


def _optimism(members: Sequence[Member]) -> Optimism | None:
    front = [
        m.log_optimism for m in members if m.on_front and m.kind != "uniform" and m.log_optimism is not None
    ]
    uniform = [m.log_optimism for m in members if m.kind == "uniform" and m.log_optimism is not None]
    if not front:
        return None
    return Optimism(members=fmean(front), uniform=fmean(uniform) if uniform else None, counted=len(front))


def _advantage(
    members: Sequence[tuple[float, ...]], rivals: Sequence[tuple[float, ...]], objectives: tuple[str, ...]
) -> Advantage | None:
    found = advantage(members, rivals)
    if found is None:
        return None
    ratio, low, high = found
    return Advantage(metric=objectives[0], cost=objectives[1], ratio=ratio, low=low, high=high)


def _note(own: Candidate, others: Sequence[Candidate], study: Study) -> str:
    """Why a probe wins or loses: the best other row that costs no more, on the report text."""
    metric = find_metric(study.settings.objectives[0])
    rivals = [
        other
        for other in others
        if other.digest != own.digest
        and all(a <= b for a, b in zip(other.values[1:], own.values[1:], strict=True))
    ]
    if not rivals:
        return "nothing else that was read on the report text costs as little"
    rival = min(rivals, key=lambda other: other.values[0])
    levels = f"{metric.label} {rival.value(metric.name):.4g} instead of {own.value(metric.name):.4g}"
    if rival.values[0] <= own.values[0]:
        return f"loses: {rival.name} costs no more and has {levels}"
    return f"wins: of all that costs no more {rival.name} is the best, with {levels}"
