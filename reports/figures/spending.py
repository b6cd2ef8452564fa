"""The cost of the search: seconds by stage, and records, evaluations and seconds by who proposed them."""

from __future__ import annotations

from collections.abc import Sequence

from paretune.reports.figures.figure import Figure, Trace, Variant, axis, base_layout, lines, safe
from paretune.reports.numerals import digits, duration, percent
from paretune.reports.reading import RunFolder, Trial

_STAGES = (
    "start",
    "bank",
    "profile",
    "search",
    "promotion",
    "promote",
    "report",
    "tasks",
    "latency",
    "export",
    "verify",
)
"""Stages that a job may have, in the order of the work; others follow."""


def stage_figure(folder: RunFolder) -> Figure | None:
    """Seconds by stage, in the order they came; ``None`` where nothing was timed."""
    # JSON objects are written with sorted keys, so the order of the stages is told here.
    known = sorted(
        folder.run.spent, key=lambda stage: _STAGES.index(stage) if stage in _STAGES else len(_STAGES)
    )
    spent = {stage: folder.run.spent[stage] for stage in known if folder.run.spent[stage] > 0}
    if not spent:
        return None
    total = sum(spent.values())
    hovers = [
        lines(stage, duration(seconds), f"{percent(seconds / total)} of all")
        for stage, seconds in spent.items()
    ]
    bars = _bars(list(spent), list(spent.values()), [duration(seconds) for seconds in spent.values()], hovers)
    return _chart(
        "stages", "Seconds by stage", (Variant("seconds", [bars], _layout(len(spent))),), len(spent)
    )


def sampler_figure(trials: Sequence[Trial]) -> Figure | None:
    """Records, evaluations and seconds by sampler; ``None`` without records."""
    if not trials:
        return None
    gathered: dict[str, list[Trial]] = {}
    for trial in trials:
        gathered.setdefault(trial.sampler, []).append(trial)
    names = sorted(gathered, key=lambda name: -len(gathered[name]))
    views = {
        "Records": [float(len(gathered[name])) for name in names],
        "Evaluations": [sum(trial.evaluations for trial in gathered[name]) for name in names],
        "Seconds": [sum(trial.seconds for trial in gathered[name]) for name in names],
    }
    variants = []
    for label, values in views.items():
        texts = [duration(value) if label == "Seconds" else _amount(value) for value in values]
        hovers = [lines(name, _sampler_words(gathered[name])) for name in names]
        variants.append(Variant(label, [_bars(names, values, texts, hovers)], _layout(len(names))))
    return _chart("samplers", "What was spent by each sampler", tuple(variants), len(names))


def _sampler_words(trials: list[Trial]) -> str:
    evaluations = sum(trial.evaluations for trial in trials)
    seconds = sum(trial.seconds for trial in trials)
    return f"{len(trials):,} records, {_amount(evaluations)} evaluations, {duration(seconds)}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else digits(value)


def _chart(name: str, alternative: str, variants: tuple[Variant, ...], rows: int) -> Figure:
    control = "buttons" if len(variants) > 1 else "none"
    return Figure(name, alternative, variants, control, "Show", height=30 + 34 * rows)  # type: ignore[arg-type]


def _bars(names: list[str], values: list[float], texts: list[str], hovers: list[str]) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": [safe(name) for name in names],
        "text": texts,
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "--accent"},
        "hovertext": hovers,
        "hoverinfo": "text",
    }


def _layout(rows: int) -> dict[str, object]:
    return base_layout(
        xaxis=axis("", visible=False, fixedrange=True),
        yaxis=axis(
            "", type="category", autorange="reversed", showgrid=False, ticks="", linewidth=0, fixedrange=True
        ),
        margin={"l": 90, "r": 80, "t": 4, "b": 8},
        bargap=0.35 if rows > 1 else 0.5,
    )
