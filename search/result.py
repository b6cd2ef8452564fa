"""``front.json``: what was promoted, which of it nobody beats on the report text, and which member to take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paretune.search.front import Candidate, ParetoFront
from paretune.search.promotion import Promoted, candidate, reference, rival_costs
from paretune.search.study import Study
from paretune.spaces.files import write_document
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Measurement, Record
from paretune.spaces.metrics import find_metric
from paretune.spaces.result import FrontFile, Member

FILE = "front.json"


def build_front(study: Study, promoted: Sequence[Promoted]) -> FrontFile:
    """The front on the report text, thinned to as many members as the settings allow.

    The recommended configuration is one of them. Limits are judged on the report text too; what breaks one there is
    no member.
    """
    limits = study.settings.parsed_limits
    points = {p.report.digest: candidate(study, p.report.name, p.report) for p in promoted}
    feasible = [c for c in points.values() if c.meets(limits)]
    front = ParetoFront(feasible, study.settings.objectives, reference(study))
    recommended, reason = _recommended(front, points, limits)
    thinned = front.thinned(study.settings.front_members, rival_costs(points.values()))
    shown = _with_recommended(front, thinned, recommended)
    on_front = {member.digest: place for place, member in enumerate(shown)}
    classes = front.classes()
    members = [_member(p, classes, on_front, study) for p in promoted]
    members.sort(key=lambda m: (on_front.get(m.digest, len(on_front)), m.kind, m.name))
    return FrontFile(
        objectives=study.settings.objectives,
        limits=study.settings.limits,
        reference_point=dict(zip(study.settings.objectives, reference(study), strict=True)),
        hypervolume=front.hypervolume,
        recommended=recommended,
        recommended_reason=reason,
        members=tuple(members),
    )


def write_front(front: FrontFile, folder: Path) -> Path:
    """Write ``front.json``, whole or not at all."""
    path = folder / FILE
    write_document(path, front)
    return path


def _member(promoted: Promoted, classes: dict[str, int], on_front: dict[str, int], study: Study) -> Member:
    record = promoted.report
    found = dict(record.measurements)
    if "kl" in promoted.search.measurements:
        found["kl_search"] = _without_windows(promoted.search.measurements["kl"])
    kind = {"baseline": "baseline", "probe": "probe"}.get(promoted.search.sampler, "front")
    return Member.model_validate(
        {
            "digest": record.digest,
            "name": record.name,
            "kind": kind,
            "on_front": record.digest in on_front,
            "equivalence_class": classes.get(record.digest),
            "config": record.config,
            "measurements": found,
            "note": _note(promoted, study) if kind == "probe" else "",
        }
    )


def _note(promoted: Promoted, study: Study) -> str:
    """Why a probe wins or loses: the best quantized candidate that is no larger, read on the same text."""
    own = promoted.report
    if not {"weight_bytes", "kl"} <= own.measurements.keys():
        return ""
    size, kl = own.measurements["weight_bytes"].value, own.measurements["kl"].value
    rivals = [
        r
        for r in _reported(study)
        if r.sampler != "probe" and r.digest != own.digest and r.measurements["weight_bytes"].value <= size
    ]
    if not rivals:
        return "nothing else that was read on the report text is as small"
    rival = min(rivals, key=lambda r: r.measurements["kl"].value)
    other, bytes_ = rival.measurements["kl"].value, rival.measurements["weight_bytes"].value
    if other <= kl:
        return (
            f"loses: {rival.name} needs {bytes_ / 1e6:.2f} MB instead of {size / 1e6:.2f} MB "
            f"and has KL {other:.4g} instead of {kl:.4g}"
        )
    return f"wins: the best other candidate of at most {size / 1e6:.2f} MB, {rival.name}, has KL {other:.4g}"


def _reported(study: Study) -> list[Record]:
    return [record for record in study.records if record.fidelity.text == "report"]


def _recommended(
    front: ParetoFront, points: dict[str, Candidate], limits: Sequence[Limit]
) -> tuple[str, str]:
    """The member to take, and why; no name where nothing meets the limits.

    With limits: the best quality within them. Without: the cheapest member that is at least as good as plain
    uniform 4 bits, the configuration that most people would have taken; if there is none, the middle one.
    """
    members = front.members
    if not members:
        return "", "nothing met the limits on the report text"
    label = find_metric(front.objectives[0]).label
    if limits:
        return members[0].name, f"the best {label} within {', '.join(limit.text for limit in limits)}"
    usual = next((p for p in points.values() if p.name == "uniform-4"), None)
    good = [m for m in members if usual is not None and m.values[0] <= usual.values[0]]
    if good:
        best = min(good, key=lambda m: m.values[1])
        return (
            best.name,
            "the cheapest member that is at least as good as plain 4 bits everywhere (uniform-4)",
        )
    middle = members[len(members) // 2]
    return middle.name, "the middle of the front"


def _with_recommended(front: ParetoFront, shown: Sequence[Candidate], recommended: str) -> list[Candidate]:
    """The thinned front with the recommended configuration in it, in its place; the last member but one makes room."""
    missing = [m for m in front.members if m.name == recommended and m not in shown]
    kept = [*shown[:-2], *shown[-1:], *missing] if missing else shown
    return [member for member in front.members if member in kept]


def _without_windows(measurement: Measurement) -> Measurement:
    return measurement.alone
