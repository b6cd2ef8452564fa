"""From the search text to the report text: the front, thinned, and the rows that it must be seen beside."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from paretune.search.front import Candidate, ParetoFront
from paretune.search.scoring import signed, value_of
from paretune.search.study import Progress, Study, readings
from paretune.spaces.measurement import Record

_PROBES = 6


@dataclass(frozen=True)
class Promoted:
    """Search reading and report reading of one candidate."""

    search: Record
    report: Record


def promote(study: Study, progress: Progress | None = None) -> list[Promoted]:
    """Read the front of the search text on the whole report text; dense, uniform rows and probes beside it.

    The best uniform configurations of every width (all methods, embedding widths and caches) are among them: what
    the front has to beat.
    """
    chosen = _chosen(study)
    fidelity = study.fidelity("report")
    found = []
    for done, record in enumerate(chosen):
        if progress is not None:
            progress(record.name, done, len(chosen), None)
        kind = record.sampler if record.sampler in ("baseline", "probe") else "promotion"
        judged = study.scorer.score_config(record.name, record.config, kind, fidelity)
        if not judged.broken:
            found.append(Promoted(record, judged))
    return found


def _chosen(study: Study) -> list[Record]:
    best = readings(study.records, "search")
    rows = list(best.values())
    baselines = [r for r in rows if r.sampler == "baseline"]
    probes = sorted((r for r in rows if r.sampler == "probe"), key=lambda r: _quality(study, r))
    rivals = _kept_baselines(study, baselines)
    costs = rival_costs(candidate(study, record.name, record) for record in rivals)
    front = search_front(study, rows).thinned(study.settings.front_members, costs)
    members = [best[candidate.digest] for candidate in front]
    chosen = [*rivals, *members, *probes[:_PROBES]]
    return list({record.digest: record for record in chosen}.values())


def search_front(study: Study, rows: list[Record]) -> ParetoFront:
    """The front of readings that meet every limit, on the search text."""
    feasible = [candidate(study, r.name, r) for r in rows if study.scorer.feasible(r)]
    return ParetoFront(feasible, study.settings.objectives, reference(study))


def candidate(study: Study, name: str, record: Record) -> Candidate:
    """A record as a point."""
    objectives = study.settings.objectives
    return Candidate(
        name=name,
        digest=record.digest,
        values=tuple(signed(m, value_of(record.measurements, m)) for m in objectives),
        quality=record.measurements[objectives[0]],
        metrics={name: m.value for name, m in record.measurements.items()},
    )


def reference(study: Study) -> tuple[float, ...]:
    """The corner that hypervolume is measured from; it depends on the model alone, so it never moves.

    Quality: what a uniform guess over the vocabulary would have; costs: those of the dense model.
    """
    worst = {
        "kl": math.log(study.space.spec.vocabulary),
        "kl_p99": math.log(study.space.spec.vocabulary),
        "perplexity": float(study.space.spec.vocabulary),
    }
    costs = study.scorer.costs(study.space.decode(study.space.dense()))
    return tuple(
        worst.get(metric, 0.0) if index == 0 else signed(metric, value_of(costs, metric))
        for index, metric in enumerate(study.settings.objectives)
    )


def _kept_baselines(study: Study, baselines: list[Record]) -> list[Record]:
    """Dense, the plain uniform rows, and those uniform rows that no other of their width beats."""
    kept = [r for r in baselines if r.name == "dense" or _is_plain(r.name)]
    by_width: dict[str, list[Record]] = {}
    for record in baselines:
        if record.name != "dense":
            by_width.setdefault(record.name.split("-")[1], []).append(record)
    for rows in by_width.values():
        front = search_front(study, rows).members
        kept += [r for r in rows if any(r.digest == c.digest for c in front)]
    return kept


def rival_costs(candidates: Iterable[Candidate]) -> list[float]:
    """Cost of the cheapest uniform row of every width: where the front will be compared with it."""
    found: dict[str, float] = {}
    for rival in candidates:
        if rival.name.startswith("uniform-"):
            width = rival.name.split("-")[1]
            found[width] = min(rival.values[1], found.get(width, rival.values[1]))
    return list(found.values())


def _is_plain(name: str) -> bool:
    return name.removeprefix("uniform-").isdigit()


def _quality(study: Study, record: Record) -> float:
    return signed(study.settings.objectives[0], value_of(record.measurements, study.settings.objectives[0]))
