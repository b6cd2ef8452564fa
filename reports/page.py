"""What the page shows, gathered and worded: one value, which the template lays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from paretune.reports.answer import (
    Answer,
    advantage_words,
    equal_quality_words,
    find_answer,
    sentence,
    speed_words,
)
from paretune.reports.compared import Beside, beside_front
from paretune.reports.comparison import (
    cost_ratio,
    front_members,
    mean_retention,
    picked,
    retention,
    task_names,
)
from paretune.reports.drawing import Figure
from paretune.reports.front_figure import equivalence_classes, front_figure
from paretune.reports.latency import latency_error, latency_words
from paretune.reports.next_steps import next_steps
from paretune.reports.panels import latency_figure, retention_figures
from paretune.reports.reading import RunFolder
from paretune.reports.shortfalls import shortfalls
from paretune.reports.table import cell
from paretune.reports.tables import (
    Table,
    duel_table,
    probe_table,
    refused_table,
    row_table,
    score_table,
    size_words,
)
from paretune.reports.wording import block_count, choice_words, configuration_words, part_of
from paretune.spaces.legality import FusedGroup
from paretune.spaces.measurement import EVALUATION_TOKENS
from paretune.spaces.numerals import (
    change,
    change_with_error,
    counted,
    digits,
    duration,
    percent,
    quantity,
    with_error,
)
from paretune.spaces.result import FrontFile, Member

_WIDTHS = (2, 3, 4, 5, 6, 8, 16)
"""Steps of the colour scale; a width between two takes the colour of the next."""
_STAGES = (
    "start", "probe", "bank", "dense", "profile", "search", "judging", "tasks", "latency", "export", "verify",
)  # fmt: skip
"""Stages that a job may have, in the order of the work; others follow. JSON objects are written with sorted keys."""


@dataclass(frozen=True)
class Card:
    """A key figure with bars (name, share of the longest, text), or bars alone where ``value`` is empty."""

    title: str
    value: str
    bars: Sequence[tuple[str, float, str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class LayerMap:
    """The bits of one member: a row per part of a block, a cell (text, CSS class, words) per block, or nothing."""

    name: str
    words: str
    rows: Sequence[tuple[str, Sequence[tuple[str, str, str] | None]]]


@dataclass(frozen=True)
class Page:
    """Everything that takes some finding out, in the words and digits in which it is shown.

    What is empty or ``None`` is left out. The template takes what stands in the files as it is from ``folder``.
    """

    folder: RunFolder
    name: str
    facts: Sequence[str]
    recommended: str
    sentence: str
    cards: Sequence[Card]
    shortfalls: Sequence[str]
    steps: Sequence[tuple[str, str]]
    front_words: str
    front: Figure | None
    duels: Table | None
    rows: Table
    compared: Sequence[Beside]
    maps: Sequence[LayerMap]
    blocks: int
    capability_words: str
    panels: Sequence[tuple[str, Figure]]
    scores: Table
    latency_words: str
    latency: Figure | None
    probes: Table | None
    cost_words: str
    charts: Sequence[Card]
    refused: Table | None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every drawing."""
        found = (self.front, *(figure for _, figure in self.panels), self.latency)
        return tuple(figure for figure in found if figure is not None)

    @property
    def contents(self) -> dict[str, str]:
        """Anchor and short title of each section that has something to say, in order."""
        sections = {
            "answer": ("Answer", True),
            "front": ("Front", True),
            "compared": ("Other models", self.compared),
            "layers": ("Layers", self.maps),
            "capabilities": ("Capabilities", self.panels),
            "latency": ("Latency", self.latency),
            "probes": ("Pruned models and sparsity", self.probes),
            "cost": ("Cost", self.charts),
            "refused": ("Refused", self.folder.run.notes or self.refused),
            "provenance": ("Provenance", True),
        }
        return {anchor: short for anchor, (short, content) in sections.items() if content}


def make_page(folder: RunFolder) -> Page:
    """The page of a run."""
    run, front, answer = folder.run, folder.front, find_answer(folder)
    groups = run.groups
    error = latency_error(run.latency_checks)
    return Page(
        folder=folder,
        name=_short(str(run.model.get("source", "model"))),
        facts=_facts(folder),
        recommended="" if answer.recommended is None else answer.recommended.name,
        sentence=sentence(answer),
        cards=_cards(folder, answer),
        shortfalls=shortfalls(folder),
        steps=next_steps(folder),
        front_words=_front_words(folder),
        front=front_figure(folder),
        duels=duel_table(front),
        rows=row_table(folder, groups),
        compared=beside_front(folder.compared, front),
        maps=_maps(front, groups),
        blocks=block_count(groups),
        capability_words=_capability_words(folder),
        panels=retention_figures(folder),
        scores=score_table(front),
        latency_words="" if error is None else latency_words(error),
        latency=None if error is None else latency_figure(run.latency_checks),
        probes=probe_table(front, block_count(groups)),
        cost_words=_cost_words(folder),
        charts=_charts(folder),
        refused=refused_table(run.refused),
    )


def _short(source: str) -> str:
    parts = [part for part in source.split("/") if part]
    # OWNER/NAME of a hub stays whole; of a longer or absolute path the last part is the name.
    return source if len(parts) == 2 and not source.startswith("/") else (parts or [source])[-1]


def _facts(folder: RunFolder) -> list[str]:
    run, load, spent = folder.run, folder.run.workload, sum(folder.run.spent.values())
    lengths = f"{load.get('prompt_tokens', '?')} + {load.get('output_tokens', '?')} tokens"
    device = str(run.device.get("label") or run.device.get("name") or "")
    time = duration(spent) if spent else ""
    facts = [device, run.engine, f"batch {load.get('batch', 1)}, {lengths}", time, run.created[:10]]
    return [fact for fact in facts if fact]


# What is recommended.


def _cards(folder: RunFolder, answer: Answer) -> list[Card]:
    """Size, quality, latency and capabilities of the recommended configuration; what is unknown has no card."""
    own, dense, front = answer.recommended, answer.dense, folder.front
    if own is None:
        return []
    rows = list({row.name: row for row in (own, answer.uniform, dense) if row is not None}.values())
    found = []
    bits, kl, agreement = own.value("average_bits"), own.measurements.get("kl"), own.value("top1_agreement")
    if (size := own.value("weight_bytes")) is not None:
        inside = "" if bits is None else f"{digits(bits)} bits per weight inside the blocks"
        bars = _card_bars(rows, lambda row: row.value("weight_bytes"), lambda value: quantity(value, "B"))
        found.append(Card("Size", quantity(size, "B"), bars, (inside, equal_quality_words(answer))))
    if kl is not None:
        notes = [f"KL to the dense model on the report text, {with_error(kl.value, kl.stderr)} nat per token"]
        searched = own.value("kl_search")
        notes.append("" if searched is None else f"On the search text, which chose it: {digits(searched)}")
        notes.append(
            "" if agreement is None else f"{percent(agreement)} of tokens keep the dense model's top choice"
        )
        pair = [None if row is None else row.value("perplexity") for row in (own, dense)]
        if pair[0] is not None and pair[1] is not None:
            notes.append(f"Perplexity {digits(pair[0])}, dense {digits(pair[1])}")
        bars = _card_bars(rows, lambda row: row.value("kl"), lambda value: digits(value, 2))
        found.append(Card("Quality loss", f"{digits(kl.value, 2)} nat", bars, notes))
    found += [card] if (card := _time_card(answer, own, rows)) is not None else []
    kept = [] if dense is None else [retention(own, dense, name) for name in task_names(front)]
    known = [one for one in kept if one is not None]
    if known and dense is not None:
        levels = _card_bars(rows, lambda row: mean_retention(row, dense, task_names(front)), change)
        worst, lost = min(known, key=lambda one: one.ratio), [one.task for one in known if one.clear]
        mean = f"Mean score beside the dense model's, {counted(len(known), 'task')}"
        least = f"Worst: {worst.task}, {change_with_error(worst.ratio, worst.stderr)}"
        fell = f"Clearly lower: {', '.join(lost)}" if lost else "No task is clearly lower"
        found.append(Card("Task scores", levels[0][2], levels, (mean, least, fell)))
    return found


def _time_card(answer: Answer, own: Member, rows: list[Member]) -> Card | None:
    """Measured time with the predicted one said below it; predicted time alone says so in its title."""
    columns = ("tpot_s", "tpot_s_predicted")
    times = [_value(own, column) for column in columns]
    predicted = times[0] is None
    found = times[predicted]
    if found is None:
        return None
    notes = ["Predicted, not measured" if predicted else "Measured on this machine"]
    ratio = None if answer.dense is None else cost_ratio(own, answer.dense, "tpot_s")
    if not answer.timed:
        notes[0] += (
            "; measured and predicted times are in different orders, so nothing is claimed about speed"
        )
    elif ratio is not None and ratio[1] == predicted:
        notes[0] += f"; {speed_words(ratio[0])}"
    if not predicted and times[1] is not None:
        notes.append(f"Predicted: {quantity(times[1], 's')}")
    for column, how in (("ttft_s", "measured"), ("ttft_s_predicted", "predicted")):
        first = _value(own, column)
        notes += [] if first is None else [f"First token after {quantity(first, 's')}, {how}"]
    bars = _card_bars(rows, lambda row: _value(row, columns[predicted]), lambda value: quantity(value, "s"))
    title = "Time per token, predicted" if predicted else "Time per token"
    return Card(title, quantity(found, "s"), bars, notes)


def _value(member: Member, column: str) -> float | None:
    """Measured values in measured columns, predicted ones in predicted columns, wherever they were stored."""
    found = cell(member, column)
    return found if isinstance(found, float) else None


def _card_bars(
    rows: Iterable[Member], value: Callable[[Member], float | None], words: Callable[[float], str]
) -> list[tuple[str, float, str]]:
    found = [(row.name, level) for row in rows if (level := value(row)) is not None]
    return _shares([(name, level, words(level)) for name, level in found])


def _shares(found: Sequence[tuple[str, float, str]]) -> list[tuple[str, float, str]]:
    top = max((level for _, level, _ in found), default=0.0) or 1.0
    return [(name, max(0.0, level) / top, words) for name, level, words in found]


# What it can do, how long it takes, what else was tried.


def _capability_words(folder: RunFolder) -> str:
    items = sorted({str(task["items"]) for task in folder.run.tasks.values() if "items" in task})
    on = f" on {' or '.join(items)} items each" if items and len(items) <= 2 else ""
    beside = "; hexagons: models that were compared and not searched" if folder.compared else ""
    tasks = counted(len(task_names(folder.front)), "task")
    return (
        f"Score of {tasks}{on}, as a share of the dense model's, against memory. Filled: the front; open squares: "
        f"uniform configurations{beside}; bars: one standard error of the share."
    )


# What it cost, and where the numbers come from.


def _cost_words(folder: RunFolder) -> str:
    run, total = folder.run, sum(folder.run.spent.values())
    parts = [f"{duration(total)} in all"] if total else []
    spent = run.evaluations or sum(trial.evaluations for trial in folder.trials)
    read = f"{quantity(spent * EVALUATION_TOKENS / 1e6, 'million tokens')} read"
    parts.append(f"{read} in {counted(len(folder.trials), 'reading')}" if folder.trials else read)
    if total and run.spent.get("search"):
        parts.append(f"the search itself took {percent(run.spent['search'] / total)} of the time")
    return f"{'; '.join(parts)}."


def _charts(folder: RunFolder) -> list[Card]:
    """Seconds by stage; evaluations by sampler, with records and seconds."""
    known = [*_STAGES, *(stage for stage in folder.run.spent if stage not in _STAGES)]
    spent = [(stage, s) for stage in known if (s := folder.run.spent.get(stage, 0.0)) > 0]
    found = (
        [Card("Time by stage", "", _shares([(stage, s, duration(s)) for stage, s in spent]))] if spent else []
    )
    samplers: dict[str, list[float]] = {}
    for trial in folder.trials:
        sums = samplers.setdefault(trial.sampler, [0.0, 0.0, 0.0])
        for place, more in enumerate((1, trial.evaluations, trial.seconds)):
            sums[place] += more
    lines = [
        (name, paid, f"{digits(paid)} in {counted(round(count), 'reading')}, {duration(seconds)}")
        for name, (count, paid, seconds) in sorted(samplers.items(), key=lambda pair: -pair[1][1])
    ]
    title = f"Evaluations ({EVALUATION_TOKENS:,} tokens each) by who proposed"
    return [*found, Card(title, "", _shares(lines))] if lines else found


def _front_words(folder: RunFolder) -> str:
    """What was found, what it is worth, and how much better than it is the search text made it look."""
    front = folder.front
    members = [member for member in front.members if member.on_front]
    classes = equivalence_classes(members, front)
    told = f", {len(classes)} of which can be told apart" if 0 < len(classes) < len(members) else ""
    candidates = len({trial.digest for trial in folder.trials})
    tried = f"Of {counted(candidates, 'candidate')} tried, nothing" if candidates else "Nothing"
    words = f"{tried} beats these {len(members)}{told}. {advantage_words(front)}".rstrip()
    found = front.optimism
    if found is None:
        return words
    words += (
        " They were chosen on the search text; on the report text, which nothing was chosen on, they lose "
        f"{digits(math.exp(found.members))} times as much"
    )
    if found.uniform is None:
        return f"{words}."
    beside = (
        f"where uniform configurations, which no search chose, lose {digits(math.exp(found.uniform))} times"
    )
    return f"{words}, {beside}."


def _maps(front: FrontFile, groups: tuple[FusedGroup, ...]) -> list[LayerMap]:
    """The recommended configuration first, then the front from small to large, then probes."""
    recommended = picked(front)
    ordered = [*([recommended] if recommended else []), *front_members(front)]
    ordered += [member for member in front.members if member.kind == "probe"]
    blocks = block_count(groups)
    parts: dict[str, dict[int, FusedGroup]] = {}
    for group in groups:
        if group.block is not None:
            parts.setdefault(part_of(group), {})[group.block] = group
    if not parts:
        return []
    return [
        LayerMap(
            f"{member.name} ({size_words(member)})" if size_words(member) else member.name,
            "; ".join(configuration_words(member.config, groups, blocks)),
            [
                (part, [_map_cell(member, row.get(block)) for block in range(blocks)])
                for part, row in parts.items()
            ],
        )
        for member in {member.name: member for member in ordered}.values()
    ]


def _map_cell(member: Member, group: FusedGroup | None) -> tuple[str, str, str] | None:
    """Bits, colour and words of one group; a cross where the block is cut, a dot where weights are zero."""
    if group is None:
        return None
    if not member.config.keeps_block(group.block):
        return "×", "cut", f"{group.name}: this block is cut"
    choice = member.config.choice(group.layers[0])
    bits = choice.weight.num_bits
    width = next((width for width in _WIDTHS if width >= bits), _WIDTHS[-1])
    zeros = " •" if choice.sparsity is not None else ""
    return f"{bits}{zeros}", f"bits-{width}", f"{group.name}: {choice_words(choice)}"
