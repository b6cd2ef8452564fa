"""A problem that anybody can state: what every choice of every categorical costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paretune.search.evidence import Evidence
from paretune.search.samplers.problem import Problem
from paretune.spaces.errors import SpaceError
from paretune.spaces.space import Point

Choice = None | bool | int | float | str
Table = Mapping[str, Mapping[Choice, float]]
"""By parameter and choice."""


class CostTables(Problem):
    """Categoricals of an Optuna study whose first objective is measured, and whose others are sums over parameters.

    Args:
        costs: a table per objective after the first, in the study's own directions. None for a study of one objective.
        choices: of every parameter, by its name; may be left out where there are ``costs``.
        prior: expected loss of every choice when all others are the best; where it is left out, a cheaper choice is
            thought to lose in proportion to what it saves.
        reference: value of the first objective that nothing is better than, e.g. 0 for a divergence: what is learned is
            the logarithm of the distance from it.
        directions: of all objectives; all are minimised where it is left out.
        admissible: called with a trial's parameters; what it forbids is not proposed.

    Raises:
        SpaceError: tables of other parameters or choices.
    """

    def __init__(
        self,
        costs: Sequence[Table] = (),
        choices: Mapping[str, Sequence[Choice]] | None = None,
        *,
        prior: Table | None = None,
        reference: float = 0.0,
        directions: Sequence[str] | None = None,
        admissible: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        known = (
            choices if choices is not None else {n: list(row) for n, row in costs[0].items()} if costs else {}
        )
        self.names = tuple(known)
        self.choices = tuple(tuple(values) for values in known.values())
        self.objectives = ("loss", *(f"cost{number}" for number in range(len(costs))))
        self.reference = reference
        self._signs = tuple(
            -1 if d == "maximize" else 1 for d in directions or ["minimize"] * (1 + len(costs))
        )
        if len(self._signs) != len(self.objectives):
            raise SpaceError(
                f"{len(self._signs)} directions",
                f"and {len(self.objectives)} objectives",
                "Name one for each",
            )
        self._costs = {
            name: [sign * row for row in self._rows(table)]
            for name, sign, table in zip(self.objectives[1:], self._signs[1:], costs, strict=True)
        }
        self._prior = self._rows(prior) if prior is not None else self._proportional()
        self._allowed = admissible

    @classmethod
    def of_function(
        cls,
        choices: Mapping[str, Sequence[Choice]],
        cost: Callable[[Mapping[str, Choice]], Sequence[float]],
        **more: Any,
    ) -> CostTables:
        """Tables of a function of all parameters, from the difference that each choice makes by itself.

        Args:
            choices: of every parameter; the function is called once per choice, the others at their first.
            cost: of a trial's parameters, one number per objective after the first.
            more: as for the constructor.
        """
        base = {name: values[0] for name, values in choices.items()}
        found = {
            name: {value: np.subtract(cost({**base, name: value}), cost(base)) for value in values}
            for name, values in choices.items()
        }
        tables = [
            {
                name: {value: float(difference[axis]) for value, difference in row.items()}
                for name, row in found.items()
            }
            for axis in range(len(cost(base)))
        ]
        return cls(tables, choices, **more)

    @property
    def signs(self) -> tuple[int, ...]:
        """See :class:`Problem`."""
        return self._signs

    @property
    def origin(self) -> Point:
        """The choices that are thought to lose nothing."""
        return tuple(int(np.argmin(row)) for row in self._prior)

    def admissible(self, point: Point) -> bool:
        """See :class:`Problem`."""
        return self._allowed is None or self._allowed(self.parameters(point))

    def cost_of(self, point: Point) -> dict[str, float]:
        """See :class:`Problem`."""
        return {
            name: float(sum(row[choice] for row, choice in zip(rows, point, strict=True)))
            for name, rows in self._costs.items()
        }

    def additive_costs(self, metric: str, base: Point) -> tuple[list[np.ndarray], float]:
        """See :class:`Problem`."""
        del base
        return self._costs.get(metric) or [np.zeros(size) for size in self.sizes], 0.0

    def evidence(self) -> Evidence:
        """See :class:`Problem`."""
        return Evidence(self)

    def prior(self, evidence: Evidence) -> list[np.ndarray]:
        """As it was given, and marginals where a trial changed one parameter alone."""
        found = [row.copy() for row in self._prior]
        for (parameter, choice), loss in evidence.marginals.items():
            found[parameter][choice] = max(loss, 0.0)
        return found

    def _rows(self, table: Table) -> list[np.ndarray]:
        try:
            return [
                np.array([float(table[name][choice]) for choice in choices])
                for name, choices in zip(self.names, self.choices, strict=True)
            ]
        except KeyError as error:
            raise SpaceError(
                f"a table without {error.args[0]!r}", "every choice of every parameter has a number", "Add it"
            ) from error

    def _proportional(self) -> list[np.ndarray]:
        """One in all, shared by what is saved; every choice but the first alike where nothing has a cost."""
        saved = [np.zeros(size) for size in self.sizes]
        for rows in self._costs.values():
            span = sum(float(row.max() - row.min()) for row in rows) or 1.0
            saved = [before + (row.max() - row) / span for before, row in zip(saved, rows, strict=True)]
        if not self._costs:
            saved = [np.minimum(np.arange(size), 1) / len(self.sizes) for size in self.sizes]
        return saved
