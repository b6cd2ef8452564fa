"""Members that cannot be told apart, as one thing to draw: one marker and one band."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.reports.figures.axes import CostAxis
from paretune.spaces.result import Member


@dataclass(frozen=True)
class EquivalenceClass:
    """Members with one number in ``front.json``.

    Attributes:
        shown: the member that the marker stands on: the recommended configuration where it is among them, else the
            cheapest.
        members: cheapest first.
    """

    shown: Member
    members: tuple[Member, ...]

    def has(self, name: str) -> bool:
        """Whether a member is called ``name``."""
        return any(member.name == name for member in self.members)

    def words(self) -> str:
        """``cannot be told from mix-3.4, mix-3.5``; empty for a member alone."""
        others = [member.name for member in self.members if member.name != self.shown.name]
        return f"cannot be told from {', '.join(others)}" if others else ""

    def outline(self, cost: CostAxis) -> tuple[list[float], list[float]]:
        """Corners of a box around the members, a little wider than they are."""
        across = [x for member in self.members if (x := cost.position(member)) is not None]
        levels = [member.value("kl") or 0.0 for member in self.members]
        margin = 0.015 * max(across)
        left, right = min(across) - margin, max(across) + margin
        low, high = min(levels) / 1.12, max(levels) * 1.12
        return [left, right, right, left, left], [low, low, high, high, low]


def equivalence_classes(
    members: list[Member], cost: CostAxis, recommended: str
) -> tuple[EquivalenceClass, ...]:
    """The members gathered by class, cheapest class first; a member without a class is alone."""
    gathered: dict[tuple[str, int], list[Member]] = {}
    for number, member in enumerate(members):
        known = member.equivalence_class
        gathered.setdefault(("alone", number) if known is None else ("class", known), []).append(member)
    found = []
    for together in gathered.values():
        ordered = tuple(sorted(together, key=lambda member: cost.position(member) or 0.0))
        shown = next((member for member in ordered if member.name == recommended), ordered[0])
        found.append(EquivalenceClass(shown, ordered))
    return tuple(sorted(found, key=lambda one: cost.position(one.shown) or 0.0))
