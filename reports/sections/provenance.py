"""What was refused and why, and where every number comes from."""

from __future__ import annotations

import json
from typing import Any

from paretune.reports.markup import Child, Safe, bullet_list, element, table
from paretune.reports.numerals import counted, digits, quantity
from paretune.reports.reading import RunFolder
from paretune.reports.sections.section import Section, paragraph, stacked
from paretune.spaces.metrics import METRICS

_NAMES_SHOWN = 4


def refused_section(folder: RunFolder) -> Section | None:
    """What the space does not hold, by reason, and the run's own notes."""
    notes = folder.run.notes
    by_reason: dict[str, list[str]] = {}
    for what, reason in folder.run.refused.items():
        by_reason.setdefault(reason, []).append(what)
    if not notes and not by_reason:
        return None
    rows = [[_names(names), reason] for reason, names in by_reason.items()]
    listed = table(["not in the space", "because"], rows, numbers_from=9) if rows else None
    return Section(
        "refused",
        "What was refused, and why",
        "Refused",
        stacked(bullet_list(notes) if notes else None, listed),
    )


def _names(names: list[str]) -> str:
    """``kv: kv8``; a choice that several groups are refused is named once, with their number."""
    choices: dict[str, list[str]] = {}
    for name in names:
        parameter, _, choice = name.partition(": ")
        choices.setdefault(choice or parameter, []).append(name)
    words = [
        found[0] if len(found) == 1 else f"{choice} in {len(found)} groups"
        for choice, found in choices.items()
    ]
    shown = ", ".join(words[:_NAMES_SHOWN])
    return shown if len(words) <= _NAMES_SHOWN else f"{shown} and {len(words) - _NAMES_SHOWN} more"


def provenance_section(folder: RunFolder) -> Section:
    """Model, machine, texts, versions, hashes, settings."""
    run = folder.run
    terms = (part for name, value in _facts(folder) for part in (element("dt", name), element("dd", value)))
    texts = [_text(name, text) for name, text in run.texts.items()]
    hashes = [[name, element("code", value)] for name, value in run.hashes.items()]
    settings = element("pre", json.dumps(run.settings, indent=2))
    body = stacked(
        element("dl", *terms),
        _export(folder),
        element("h3", "Texts"),
        table(["text", "where", "windows", "tokens each", "digest"], texts, 2),
        _tasks(folder),
        element("h3", "Versions"),
        paragraph(", ".join(f"{name} {version}" for name, version in run.versions.items())),
        element("h3", "Hashes (SHA-256)"),
        table(["of", "hash"], hashes, 9),
        element("details", element("summary", "Settings, complete"), settings),
    )
    return Section("provenance", "Where the numbers come from", "Provenance", body)


def _facts(folder: RunFolder) -> list[tuple[str, str]]:
    run, front = folder.run, folder.front
    engine = f"{run.engine} {run.engine_version}".strip()
    full = run.kl_mode == "full"
    return [
        ("model", _mapping(run.model)),
        ("engine", f"{engine}, {run.numeric_path}" if run.numeric_path else engine),
        ("device", str(run.device.get("label") or run.device.get("name") or "")),
        ("workload", _mapping(run.workload)),
        (
            "objectives",
            ", ".join(METRICS[name].label if name in METRICS else name for name in front.objectives),
        ),
        ("limits", ", ".join(front.limits) or "none"),
        ("KL", "over the full vocabulary" if full else f"over {run.kl_mode} and a bucket for the rest"),
        ("seed", str(run.seed)),
        ("created", run.created),
        ("status", run.status),
    ]


def _text(name: str, text: dict[str, Any]) -> list[Child]:
    digest = str(text.get("digest", ""))
    return [
        name,
        str(text.get("path", "")),
        str(text.get("windows", "")),
        str(text.get("window_tokens", "")),
        element("code", digest[:16], title=digest),
    ]


def _tasks(folder: RunFolder) -> Safe | None:
    if not folder.run.tasks:
        return None
    keys = sorted({key for task in folder.run.tasks.values() for key in task})
    rows = [[name, *(_plain(task.get(key)) for key in keys)] for name, task in folder.run.tasks.items()]
    return stacked(element("h3", "Tasks"), table(["task", *keys], rows))


def _export(folder: RunFolder) -> Safe | None:
    export = folder.run.export
    if export is None:
        return None
    words = f"{export.get('name', 'The recommended')} was exported"
    if "folder" in export:
        words += f" to {export['folder']}"
    if "weight_bytes" in export:
        words += f" ({quantity(float(export['weight_bytes']), 'B')})"
    words += ", loaded again in a fresh process"
    gap = export.get("kl_to_candidate")
    if isinstance(gap, int | float):
        words += f" and differs from the searched candidate by a KL of {digits(float(gap), 2)} nat a token"
        tolerance = export.get("tolerance")
        words += f" (tolerance {digits(float(tolerance), 2)})" if isinstance(tolerance, int | float) else ""
    return stacked(element("h3", "Export"), paragraph(f"{words}."))


def _mapping(values: dict[str, Any]) -> str:
    shown = [
        f"{key} {_plain(value)}"
        for key, value in values.items()
        if value is not None and key != "schema_version"
    ]
    return ", ".join(shown) or counted(0, "entry", "entries")


def _plain(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else digits(value)
