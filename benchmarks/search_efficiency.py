"""What samplers find with how many readings: ``python -m benchmarks.search_efficiency`` writes its table.

Synthetic landscapes, whose fronts are known: groups of {2, 3, 4, 8} bits, four in a block. A block loses the sum of
its groups and of interactions of every two, and the more per part the more it loses, some blocks far more. A model
loses a rising function of the sum over blocks. A knapsack whose items are blocks with 256 choices each is solved
exactly for all budgets, and that front stays the front under any rising function. Every window of a text has its own
losses, which differ by 30 % per group and width: candidates are read on the same 16 windows of 512 tokens, marginals
on the first two, and what a candidate is worth is read on none of them. Everything is told to samplers by the study
that a search uses.

``hypervolume_search`` and ``hypervolume_report`` are shares of the known front's volume: the integral over average
bits from 2.2 to 4.5 of log10(loss of uniform 2 bits) - log10(loss of the member picked at that budget), on the windows
that were read, and on all there could be. One evaluation is 16,384 tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np

from benchmarks.tables import beside, write_table
from paretune.search.additive import exact_front
from paretune.search.candidates import Candidates
from paretune.search.samplers import find_sampler
from paretune.search.samplers.cost_tables import CostTables
from paretune.search.samplers.problem import Observation
from paretune.spaces.measurement import EVALUATION_TOKENS
from paretune.spaces.space import Point

COLUMNS = (
    "landscape", "method", "seed", "evaluations", "seconds", "hypervolume_search", "hypervolume_report", "kl_2.5",
    "kl_3.0", "kl_3.5",
)  # fmt: skip
METHODS = ("paretune", "additive", "greedy", "annealing", "lp", "nsga2", "nsga3", "tpe", "random")
LANDSCAPES = {"synthetic-224": 224, "synthetic-896": 896}
STOPS = (50, 100, 130, 250, 500, 1000, 2000, 4000)
WIDTHS = (2, 3, 4, 8)
LOWEST, HIGHEST = 2.2, 4.5
BLOCK = 4
CANDIDATE_TOKENS, MARGINAL_TOKENS = 8192, 1024
WINDOW_TOKENS, SPREAD = 512, 0.3
"""The spread is that of a group's losses over windows, as a standard deviation of their logarithms."""


@dataclass
class Landscape:
    """Groups whose losses interact within blocks.

    Attributes:
        groups: how many.
        shape: of the random numbers.
    """

    groups: int
    shape: int = 0
    weights: np.ndarray = field(init=False)
    entries: np.ndarray = field(init=False)
    pairs: np.ndarray = field(init=False)
    together: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng([self.shape, self.groups])
        self.weights = random.choice([1, 2, 3, 8], self.groups)
        importance = np.exp(random.normal(0, 1.2, self.groups)) * np.sqrt(self.weights)
        jitter = np.exp(random.normal(0, 0.3, (self.groups, len(WIDTHS))))
        self.entries = importance[:, None] * 4.0 ** -np.array(WIDTHS) * jitter
        self.entries[:, 0] *= np.exp(random.normal(0.7, 0.5, self.groups))  # two bits clip
        self.entries *= 0.15 / self.entries[:, 0].sum()
        self.pairs = random.uniform(-0.3, 0.5, (self.groups // BLOCK, BLOCK, BLOCK))
        self.together = np.exp(random.normal(0, 0.7, self.groups // BLOCK))

    @cached_property
    def problem(self) -> CostTables:
        """Parameters and their bits."""
        names = [f"group{number}" for number in range(self.groups)]
        share = self.weights / self.weights.sum()
        return CostTables(
            [{n: {w: w * s for w in WIDTHS} for n, s in zip(names, share.tolist(), strict=True)}]
        )

    def blocks(self, halves: np.ndarray) -> np.ndarray:
        """What blocks lose whose groups lose ``(blocks, choices, BLOCK)`` alone, ``(blocks, choices)``."""
        roots = np.sqrt(halves)
        total = halves.sum(axis=2)
        for one in range(BLOCK):
            for other in range(one):
                total = total + self.pairs[:, None, one, other] * roots[..., one] * roots[..., other]
        narrowest = self.entries[:, 0].reshape(-1, 1, BLOCK).sum(axis=2)
        found: np.ndarray = total * (1 + self.together[:, None] * total / narrowest)
        return found

    def loss(self, point: Point, entries: np.ndarray | None = None) -> float:
        """What a candidate loses; on a text, whose losses of groups are ``entries``."""
        halves = (self.entries if entries is None else entries)[np.arange(self.groups), list(point)].reshape(
            -1, 1, BLOCK
        )
        return float(_together(self.blocks(halves).sum()))

    def bits(self, point: Point) -> float:
        """Average bits of a candidate."""
        return float(self.weights @ np.array(WIDTHS)[list(point)] / self.weights.sum())

    @cached_property
    def front(self) -> tuple[np.ndarray, np.ndarray]:
        """Average bits and losses of the known front."""
        choices = np.array(list(product(range(len(WIDTHS)), repeat=BLOCK)))
        weights = self.weights.reshape(-1, BLOCK)
        costs = (np.array(WIDTHS)[choices][None] * weights[:, None]).sum(axis=2).astype(float)
        halves = self.entries.reshape(-1, BLOCK, len(WIDTHS))
        losses = self.blocks(np.stack([halves[:, k, choices[:, k]] for k in range(BLOCK)], axis=2))
        found = exact_front(list(costs), list(losses), 10**9)
        assert found.exact
        return found.costs / self.weights.sum(), _together(found.sensitivities)

    def volume(self, bits: np.ndarray, read: np.ndarray, true: np.ndarray) -> float:
        """Of the members that are picked by what was read, by what they lose."""
        budgets = np.linspace(LOWEST, HIGHEST, 231)
        picked = [true[known][np.argmin(read[known])] for known in (bits <= b + 1e-12 for b in budgets)]
        return float(np.mean(np.log10(self.loss((0,) * self.groups) / np.array(picked))) * (HIGHEST - LOWEST))


def _together(total: np.ndarray) -> np.ndarray:
    """Large perturbations do more harm together than apart."""
    return total * (1 + 3 * total**0.7)


@dataclass
class Run:
    """One method on one landscape."""

    landscape: Landscape
    name: str
    method: str
    seed: int

    def __post_init__(self) -> None:
        self.evaluations = 0.0
        windows = CANDIDATE_TOKENS // WINDOW_TOKENS
        drawn = np.random.default_rng([self.seed, 17]).normal(
            -(SPREAD**2) / 2, SPREAD, (windows, *self.landscape.entries.shape)
        )
        self._windows = self.landscape.entries * np.exp(drawn)
        self._origin = self.landscape.problem.origin
        self.members: list[tuple[float, float, float]] = []
        self._end = (0.0, 0.0)

    def rows(self, most: float) -> Iterator[dict[str, object]]:
        """A row at every stop that is reached; the last state that cost at most so many evaluations."""
        kind, seconds = find_sampler(self.method), 0.0
        candidates = Candidates(self.landscape.problem, kind, self.seed)
        for point in self._first(kind.uses_marginals):
            tokens = (
                MARGINAL_TOKENS
                if sum(a != b for a, b in zip(point, self._origin, strict=True)) == 1
                else None
            )
            candidates.tell(self._read(point, tokens or CANDIDATE_TOKENS))
        for stop in (stop for stop in STOPS if stop <= most):
            trial = 0
            while self.evaluations + CANDIDATE_TOKENS / EVALUATION_TOKENS <= stop:
                start = time.perf_counter()
                point = candidates.ask(len(self.members) + trial)
                seconds += time.perf_counter() - start
                if point is None:
                    break
                candidates.tell(self._read(point, CANDIDATE_TOKENS))
            if self.evaluations <= stop:
                yield self._row(stop, seconds)
            if candidates.ended:
                return

    def _first(self, with_marginals: bool) -> Iterator[Point]:
        for choice in range(len(WIDTHS)):
            yield (choice,) * self.landscape.groups
        for group in range(self.landscape.groups if with_marginals else 0):
            for choice in range(len(WIDTHS) - 1):
                yield (*self._origin[:group], choice, *self._origin[group + 1 :])

    def _read(self, point: Point, tokens: int) -> Observation:
        self.evaluations += tokens / EVALUATION_TOKENS
        text = self._windows[: tokens // WINDOW_TOKENS].mean(axis=0)
        lost = max(self.landscape.loss(point, text) - self.landscape.loss(self._origin, text), 0.0)
        bits = self.landscape.bits(point)
        if tokens == CANDIDATE_TOKENS:
            self.members.append((bits, lost, self.landscape.loss(point)))
        return Observation(point, (lost, bits), tokens=tokens)

    def _row(self, stop: int, seconds: float) -> dict[str, object]:
        bits, read, true = np.array(self.members).T
        known = self.landscape.front
        whole = self.landscape.volume(*known, known[1])
        least = self.landscape.loss(self._origin)
        at = {f"kl_{b}": float(true[bits <= b][np.argmin(read[bits <= b])]) for b in (2.5, 3.0, 3.5)}
        return {
            "landscape": self.name, "method": self.method, "seed": self.seed, "evaluations": stop,
            "seconds": round(seconds, 2),
            "hypervolume_search": round(self.landscape.volume(bits, read, read + least) / whole, 4),
            "hypervolume_report": round(self.landscape.volume(bits, read, true) / whole, 4),
            **{name: float(f"{value:.4g}") for name, value in at.items()},
        }  # fmt: skip


def main() -> None:
    """Run methods; each row is written at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landscapes", nargs="*", default=list(LANDSCAPES), help="names")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="names of samplers")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="of samplers and readings"
    )
    parser.add_argument("--evaluations", type=float, default=500, help="of one run, at most")
    parser.add_argument("--dry-run", action="store_true", help="print rows, write none")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name in arguments.landscapes:
        landscape = Landscape(LANDSCAPES[name])
        for method in arguments.methods:
            for seed in arguments.seeds:
                for row in Run(landscape, name, method, seed).rows(arguments.evaluations):
                    print(*row.values(), flush=True)
                    rows.append(row)
                if rows and not arguments.dry_run:
                    key = ("landscape", "method", "seed", "evaluations")
                    write_table("search_efficiency", COLUMNS, beside("search_efficiency", rows, key))


if __name__ == "__main__":
    main()
