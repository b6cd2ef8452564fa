"""Whether an engine takes a whole configuration: student, cache, then group by group or site by site."""

from __future__ import annotations

from spaces.configuration import CompressionConfig
from spaces.groups import single_groups
from spaces.legality import LEGAL, Legality, Ruling, illegal
from spaces.model import ModelSpec


def ruling_by_group(legality: Legality, spec: ModelSpec, config: CompressionConfig) -> Ruling:
    """The first refusal: of the student, the cache, a group whose sites differ, or a group's choice."""
    for verdict in (legality.student(spec, config.student), legality.kv(spec, config.kv)):
        if not verdict:
            return verdict
    for group in legality.groups(spec):
        if not config.keeps_block(group.block):
            continue
        choices = {site: config.choice(site) for site in group.sites}
        first = choices[group.sites[0]]
        other = next((site for site, choice in choices.items() if choice != first), None)
        if other is not None:
            return illegal(
                f"{group.sites[0]} has {first.name} and {other} has {choices[other].name}, but {legality.engine}"
                f" fuses them ({group.name})",
                legality.engine,
            )
        verdict = legality.choice(spec, group, first, config.student)
        if not verdict:
            return verdict.model_copy(update={"reason": f"{group.name}: {verdict.reason}"})
    return LEGAL


def ruling_by_site(legality: Legality, spec: ModelSpec, config: CompressionConfig) -> Ruling:
    """The first refusal of an engine that fuses nothing on loading: of the student, the cache, or a site's choice."""
    for verdict in (legality.student(spec, config.student), legality.kv(spec, config.kv)):
        if not verdict:
            return verdict
    for group in single_groups(spec):
        site = group.sites[0]
        if config.keeps_block(group.block):
            verdict = legality.choice(spec, group, config.choice(site), config.student)
            if not verdict:
                return verdict.model_copy(update={"reason": f"{site}: {verdict.reason}"})
    return LEGAL
