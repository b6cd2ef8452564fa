"""Cost axes that a front can be drawn over, with their pretty units."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.reports.numerals import scale_of
from paretune.spaces.metrics import METRICS
from paretune.spaces.result import FrontFile, Member


@dataclass(frozen=True)
class CostAxis:
    """One cost, in one pretty unit for the whole figure.

    Attributes:
        column: of ``front.csv``.
        label: on the button.
        title: of the axis, with the unit.
        factor: SI units in one pretty unit.
    """

    column: str
    label: str
    title: str
    factor: float
    unit: str

    def position(self, member: Member) -> float | None:
        """Where ``member`` lies; ``None`` where the cost is unknown."""
        value = member.value(self.column)
        return None if value is None else value / self.factor


_LABELS = {
    "weight_bytes": "Bytes",
    "memory_bytes": "Memory",
    "average_bits": "Average bits",
    "tpot_s": "Time per token",
    "ttft_s": "Time to first token",
    "energy_j_per_token": "Energy per token",
}


def cost_axes(front: FrontFile) -> tuple[CostAxis, ...]:
    """Axes that at least two members of the front have a value on; bytes first, measured before predicted."""
    found = []
    for base, label in _LABELS.items():
        for column, suffix in ((base, ""), (f"{base}_predicted", ", predicted")):
            values = [member.value(column) for member in front.members if member.on_front]
            known = [value for value in values if value is not None]
            if len(set(known)) >= 2:
                metric = METRICS[base]
                factor, unit = scale_of(max(known), metric.unit)
                title = f"{metric.label}{suffix} ({unit})"
                found.append(CostAxis(column, f"{label}{suffix}", title, factor, unit))
    return tuple(found)
