"""Members as points over a cost: where they lie, what a hover says, how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.reports.figures.axes import CostAxis
from paretune.reports.figures.figure import Trace, lines, safe
from paretune.reports.numerals import digits, measured, quantity
from paretune.reports.wording import block_count, configuration_words
from paretune.spaces.legality import FusedGroup
from paretune.spaces.result import Member


@dataclass(frozen=True)
class Points:
    """Draws members over one cost axis; a KL of zero has no place on a log axis and is left out."""

    cost: CostAxis
    groups: tuple[FusedGroup, ...]

    def at(self, member: Member) -> tuple[float, float] | None:
        """``(cost in the pretty unit, KL in nat)``; ``None`` where either is unknown, or the KL is zero."""
        x, kl = self.cost.position(member), member.value("kl")
        return None if x is None or kl is None or kl <= 0 else (x, kl)

    def hover(self, member: Member, *more: str) -> str:
        """Name, KL, size and the configuration in words."""
        numbers = [f"KL {measured(member.measurements['kl'])}"]
        size, bits = member.value("weight_bytes"), member.value("average_bits")
        if size is not None:
            numbers.append(
                quantity(size, "B") + (f", {digits(bits)} bits a weight" if bits is not None else "")
            )
        found = member.measurements.get(self.cost.column)
        if found is not None and self.cost.column not in ("weight_bytes", "average_bits"):
            numbers.append(f"{self.cost.label.lower()} {measured(found)}")
        words = configuration_words(member.config, self.groups, block_count(self.groups))
        return f"<b>{safe(member.name)}</b><br>{lines(*numbers, *words, *more)}"

    def trace(
        self, members: list[Member], name: str, extra: list[str] | None = None, **style: object
    ) -> list[Trace]:
        """One trace with error bars of two standard errors; nothing without members."""
        notes = extra or [member.note for member in members]
        spots = [
            (member, spot, note)
            for member, note in zip(members, notes, strict=True)
            if (spot := self.at(member)) is not None
        ]
        if not spots:
            return []
        return [
            {
                "type": "scatter",
                "name": name,
                "x": [spot[0] for _, spot, _ in spots],
                "y": [spot[1] for _, spot, _ in spots],
                "error_y": error_bars([member for member, _, _ in spots]),
                "hovertext": [self.hover(member, note) for member, _, note in spots],
                "hoverinfo": "text",
                **style,
            }
        ]


def error_bars(members: list[Member]) -> Trace:
    """Two standard errors of the KL; the lower end stays above zero, for the log axis."""
    up, down = [], []
    for member in members:
        found = member.measurements["kl"]
        reach = 2 * (found.stderr or 0.0)
        up.append(reach)
        down.append(min(reach, 0.95 * found.value))
    return {
        "type": "data",
        "array": up,
        "arrayminus": down,
        "symmetric": False,
        "thickness": 1.3,
        "width": 3,
        "color": "--ink-soft",
    }
