"""The key figures as cards: one number each, with bars against the best uniform row and the dense model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paretune.reports.answer import Answer, equal_quality_words, speed_words
from paretune.reports.comparison import cost, cost_ratio, mean_retention, retention, task_names
from paretune.reports.markup import Child, Safe, element, unbroken
from paretune.reports.numerals import counted, digits, percent, quantity, share_with_error, with_error
from paretune.reports.reading import RunFolder
from paretune.spaces.result import Member


@dataclass(frozen=True)
class Bar:
    """One line of a comparison.

    Attributes:
        name: of the row.
        value: decides the length.
        text: the value for people.
    """

    name: str
    value: float
    text: str


def cards(folder: RunFolder, answer: Answer) -> list[Safe]:
    """Size, quality, latency and capabilities of the recommended configuration; what is unknown has no card."""
    recommended = answer.recommended
    if recommended is None:
        return []
    found = (
        _size(answer, recommended),
        _quality(answer, recommended),
        _speed(answer, recommended),
        _tasks(folder, answer, recommended),
    )
    return [card for card in found if card is not None]


def _card(title: str, value: str, bars: Sequence[Bar], *notes: str) -> Safe:
    top = max((bar.value for bar in bars), default=0.0) or 1.0
    lines = [_line(bar, bar.value / top, own=number == 0) for number, bar in enumerate(bars)]
    shown: list[Child] = [element("p", unbroken(note)) for note in notes if note]
    return element(
        "div",
        element("h3", title),
        element("p", value, class_="value"),
        element("div", *lines, class_="bars") if len(lines) > 1 else None,
        *shown,
        class_="card",
    )


def _line(bar: Bar, share: float, own: bool) -> Safe:
    width = f"width:{100 * max(0.0, share):.1f}%"
    track = element(
        "span", element("span", class_="fill own" if own else "fill", style=width), class_="track"
    )
    return element(
        "div", element("span", bar.name, class_="who"), track, element("span", bar.text), class_="bar"
    )


def _rows(answer: Answer, recommended: Member) -> list[Member]:
    """The recommended configuration, the best uniform row no larger, and dense: each once."""
    rows = [recommended, *(row for row in (answer.uniform, answer.dense) if row is not None)]
    return list({row.name: row for row in rows}.values())


def _size(answer: Answer, recommended: Member) -> Safe | None:
    bars = [
        Bar(row.name, size, quantity(size, "B"))
        for row in _rows(answer, recommended)
        if (size := row.value("weight_bytes")) is not None
    ]
    if recommended.value("weight_bytes") is None:
        return None
    bits = recommended.value("average_bits")
    words = "" if bits is None else f"{digits(bits)} bits a weight inside the blocks"
    return _card("Size", bars[0].text, bars, words, equal_quality_words(answer))


def _quality(answer: Answer, recommended: Member) -> Safe | None:
    kl = recommended.measurements.get("kl")
    if kl is None:
        return None
    bars = [
        Bar(row.name, level, digits(level, 2))
        for row in _rows(answer, recommended)
        if (level := row.value("kl")) is not None
    ]
    agreement = recommended.value("top1_agreement")
    perplexity = [None if row is None else row.value("perplexity") for row in (recommended, answer.dense)]
    notes = [f"KL to the dense model, {with_error(kl.value, kl.stderr)} nat a token"]
    if agreement is not None:
        notes.append(f"{percent(agreement)} of tokens keep the dense model's top choice")
    if perplexity[0] is not None and perplexity[1] is not None:
        notes.append(f"Perplexity {digits(perplexity[0])}, dense {digits(perplexity[1])}")
    return _card("Quality loss", f"{digits(kl.value, 2)} nat", bars, *notes)


def _speed(answer: Answer, recommended: Member) -> Safe | None:
    found = cost(recommended, "tpot_s")
    if found is None:
        return None
    own, predicted = found
    column = "tpot_s_predicted" if predicted else "tpot_s"
    bars = [
        Bar(row.name, level, quantity(level, "s"))
        for row in _rows(answer, recommended)
        if (level := own.value if row is recommended else row.value(column)) is not None
    ]
    notes = ["Predicted, not measured" if predicted else "Measured on this machine"]
    ratio = None if answer.dense is None else cost_ratio(recommended, answer.dense, "tpot_s")
    if ratio is not None:
        notes[0] += f"; {speed_words(ratio[0])}"
    first = cost(recommended, "ttft_s")
    if first is not None:
        notes.append(f"First token after {quantity(first[0].value, 's')}{' (predicted)' if first[1] else ''}")
    return _card("Time per token", quantity(own.value, "s"), bars, *notes)


def _tasks(folder: RunFolder, answer: Answer, recommended: Member) -> Safe | None:
    dense = answer.dense
    if dense is None:
        return None
    names = task_names(folder.front)
    kept = [one for name in names if (one := retention(recommended, dense, name)) is not None]
    if not kept:
        return None
    levels = ((row, mean_retention(row, dense, names)) for row in _rows(answer, recommended))
    bars = [Bar(row.name, mean, percent(mean)) for row, mean in levels if mean is not None]
    worst = min(kept, key=lambda one: one.ratio)
    lost = [one.task for one in kept if one.clear]
    return _card(
        "Capabilities kept",
        bars[0].text,
        bars,
        f"Mean of {counted(len(kept), 'task')}, as a share of dense",
        f"Least: {worst.task} {share_with_error(worst.ratio, worst.stderr)}",
        f"Clearly lower: {', '.join(lost)}" if lost else "None is clearly lower than dense",
    )
