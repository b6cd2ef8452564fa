"""Exchanges around measured members: one choice for the better, none to two for the worse, drawn by the thousand.

Nothing is built for a move but its change of cost and sensitivity; the few that are worth it become points.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from paretune.search.sensitivity import SensitivityTable
from paretune.spaces.space import Point

_SECOND, _THIRD = 0.9, 0.35
"""How often a move has a second, and a third change."""


@dataclass(frozen=True)
class Moves:
    """Moves from members to neighbours.

    Attributes:
        member: int64 ``(moves,)``, of which member.
        cells: int64 ``(moves, 3)``, changed cells of the table; repeated where there are fewer changes.
        cost: float64 ``(moves,)``, change of cost.
        prior: float64 ``(moves,)``, change of the sum of prior entries.
        corrected: float64 ``(moves,)``, of corrected ones.
    """

    member: np.ndarray
    cells: np.ndarray
    cost: np.ndarray
    prior: np.ndarray
    corrected: np.ndarray

    def point(self, move: int, members: np.ndarray, table: SensitivityTable) -> Point:
        """The neighbour that a move leads to from its member."""
        changed = members[self.member[move]].copy()
        parameters = parameters_of(table)[self.cells[move]]
        # The first change comes last, so that repeated cells change nothing.
        changed[parameters[::-1]] = (self.cells[move] - table.offsets[parameters])[::-1]
        return tuple(int(choice) for choice in changed)


def draw_moves(
    table: SensitivityTable,
    costs: np.ndarray,
    free: np.ndarray,
    members: np.ndarray,
    count: int,
    random: np.random.Generator,
) -> Moves:
    """At most ``count`` random moves a member.

    Args:
        table: of sensitivities.
        costs: float64 ``(cells,)``, what every cell of the table costs.
        free: bool ``(cells,)``, which cells may be chosen.
        members: int64 ``(members, parameters)`` points.
        count: of moves a member; those that would change a parameter twice are dropped.
        random: the dice.
    """
    parameter_of = parameters_of(table)
    drawn = [Moves(np.zeros(0, np.int64), np.zeros((0, 3), np.int64), *[np.zeros(0)] * 3)]
    for number, now in enumerate(table.cells(members)):
        sensitivity = table.flat - table.flat[now][parameter_of]
        better, worse = np.flatnonzero((sensitivity < 0) & free), np.flatnonzero((sensitivity > 0) & free)
        if not len(better):
            continue
        cells = _draw(better, worse, count, random)
        cells = cells[~_clash(parameter_of[cells], cells)]
        fresh = np.ones(cells.shape)
        fresh[:, 1] = cells[:, 1] != cells[:, 0]
        fresh[:, 2] = (cells[:, 2] != cells[:, 1]) & (cells[:, 2] != cells[:, 0])
        changes = [
            ((values[cells] - values[now][parameter_of[cells]]) * fresh).sum(axis=1)
            for values in (costs, table.flat_prior, table.flat)
        ]
        drawn.append(Moves(np.full(len(cells), number), cells, *changes))
    return Moves(*(np.concatenate([getattr(d, f.name) for d in drawn]) for f in fields(Moves)))


def _draw(better: np.ndarray, worse: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Cells ``(count, 3)``: one for the better, then often one and sometimes two for the worse."""
    first = random.choice(better, count)
    cells = np.stack([first, first, first], axis=1)
    if len(worse):
        for column, often in ((1, _SECOND), (2, _THIRD)):
            cells[:, column] = np.where(random.random(count) < often, random.choice(worse, count), first)
    return cells


def _clash(parameters: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Whether a move gives one parameter two choices."""
    found = np.zeros(len(cells), dtype=bool)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        found |= (parameters[:, a] == parameters[:, b]) & (cells[:, a] != cells[:, b])
    return found


def parameters_of(table: SensitivityTable) -> np.ndarray:
    """The parameter of every cell, int64 ``(cells,)``."""
    return np.repeat(np.arange(len(table.prior)), [len(p) for p in table.prior])
