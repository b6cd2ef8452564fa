"""A search: baselines, probes and marginals first, then what the sampler proposes.

Candidates are compared on the same windows: all that the sampler proposes are read on one rung, and so is whatever they
are compared with. Uniform configurations and probes are read on a shorter one first, marginals on the shortest; what is
told to the sampler is always what is lost to the origin on the same windows.

Every step asks the record file whether it was done before, and the sampler goes on from its state, so a run that was
killed goes on where it stopped: it loses at most the candidate under way and repeats nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from paretune.search.baselines import Named, marginals, probes, ranked_kinds, uniform_configurations
from paretune.search.budget import Budget
from paretune.search.candidates import Candidates
from paretune.search.feasibility import check_feasible, check_measured
from paretune.search.pareto import non_dominated
from paretune.search.records import RecordFile
from paretune.search.samplers import find_sampler
from paretune.search.samplers.problem import Observation
from paretune.search.scoring import Scorer, signed, value_of
from paretune.search.settings import SearchSettings
from paretune.search.space_problem import SpaceProblem
from paretune.search.storage import StudyStorage
from paretune.search.trials import Trials
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.evaluator import Evaluator
from paretune.spaces.measurement import Fidelity, Record
from paretune.spaces.metrics import find_metric
from paretune.spaces.result import Ended
from paretune.spaces.space import Point, SearchSpace

Progress = Callable[[str, int, int | None, float | None], None]
"""Called with what is being done, how many are done, of how many (if known) and the seconds left (if known)."""

PROBES = 6
"""Probes that are read as far as candidates, best first; more where the front holds them."""


class Study:
    """One search in one run folder.

    Args:
        space: what is searched.
        quality: reads candidates on the texts ``search`` and ``report``.
        cost: computes and predicts costs.
        settings: of the search.
        folder: of the run; must be locked by the caller.
        windows: available windows by text.
        window_tokens: of each window.

    Attributes:
        ended: why the search ended, see :class:`paretune.spaces.result.RunDocument`.
        holds_dense: whether the dense model is a point of the space; it is scored in any case.
        uniform: what every uniform configuration of the space is made of, by digest.

    Raises:
        SpaceError: an objective that neither ``quality`` nor ``cost`` has a value of.
        LimitError: the same of a limit, or no configuration of the space meets it.
        RunError: records that cannot be read.
    """

    def __init__(
        self,
        space: SearchSpace,
        quality: Evaluator,
        cost: Evaluator,
        settings: SearchSettings,
        folder: Path,
        windows: Mapping[str, int],
        window_tokens: int,
    ) -> None:
        self.space = space
        self.settings = settings
        self.folder = folder
        self.windows = dict(windows)
        self.window_tokens = window_tokens
        self.records = RecordFile(folder, versions_of(quality, cost))
        self.storage = StudyStorage(folder, settings.objectives, space)
        self.scorer = Scorer(
            space, quality, cost, self.records, settings.objectives, settings.parsed_limits, self._stored
        )
        self._problem = SpaceProblem(space, settings.objectives, self.scorer.cost_of, self.scorer.admissible)
        known = self.scorer.costs(DENSE_CONFIG)
        check_measured(settings.objectives, settings.parsed_limits, quality.metrics, known)
        check_feasible(space, self.scorer.costs, settings.parsed_limits)
        for record in self.records:
            self._stored(record)
        self.budget = Budget(settings, self.records)
        self.ended: Ended = ""
        self.holds_dense = space.decode(space.origin()) == DENSE_CONFIG
        self._uniform = uniform_configurations(space)
        self.uniform = {
            space.decode(entry.point).digest: entry.uniform
            for entry in self._uniform
            if entry.uniform is not None
        }
        self._origin = space.decode(space.origin())
        names = {space.decode(entry.point).digest: entry.name for entry in self._uniform}
        self._origin_name = "dense" if self.holds_dense else names.get(self._origin.digest, "widest")

    def run(self, progress: Progress | None = None) -> None:
        """Search until the budget ends or the sampler does.

        Settings without minutes, evaluations and candidates have no budget that ends.
        """
        report = progress or _silent
        kind = find_sampler(self.settings.sampler)
        candidates = Candidates(self._problem, kind, self.settings.seed)
        for record in self._first(kind.uses_marginals, report):
            if record.digest != DENSE_CONFIG.digest or self.holds_dense:
                candidates.tell(self.observe(record))
        trials = self._resumed(candidates)
        for trial, point in list(trials.pending.items()):
            self._evaluate(trials, trial, point, candidates)
        while not (reached := self.budget.reached(trials.asked)):
            proposed = candidates.ask(trials.asked)
            if proposed is None:
                self.ended = candidates.ended
                return
            self._evaluate(trials, trials.ask(proposed, candidates.state()), proposed, candidates)
            done, most = trials.asked, self.settings.max_candidates
            report(f"{done} candidates", done, most, self.budget.seconds_left)
        self.ended = reached

    def _resumed(self, candidates: Candidates) -> Trials:
        """Bring a new sampler to where that of an earlier run in this folder was."""
        told = {record.trial: record for record in self.records if record.trial is not None}
        for record in told.values():
            candidates.tell(self.observe(record))
        trials = Trials(self.folder, told.keys())
        for point in trials.pending.values():
            candidates.expect(point)
        if trials.state:
            candidates.restore(trials.state)
        return trials

    def _evaluate(self, trials: Trials, trial: int, point: Point, candidates: Candidates) -> None:
        name = f"p{trial:03d}-{self._bits(point):.2f}b"
        record = self.scorer.score(name, point, self.settings.sampler, self.candidate, trial)
        candidates.tell(self.observe(record))
        trials.told(trial)

    def observe(self, record: Record) -> Observation:
        """A record as samplers see it: what is lost to the origin on the same windows, then costs."""
        quality, *costs = self.settings.objectives
        base = self.scorer.score_config(self._origin_name, self._origin, "baseline", record.fidelity)
        lost = math.nan
        if not record.broken:
            lost = find_metric(quality).loss(*(value_of(r.measurements, quality) for r in (record, base)))
        return Observation(
            point=self.space.encode(record.config),
            values=(lost, *(signed(metric, value_of(record.measurements, metric)) for metric in costs)),
            tokens=record.fidelity.tokens,
            violations=self.scorer.violations(record),
            broken=bool(record.broken),
        )

    # -- before the sampler ---------------------------------------------------------------------------------

    def _first(self, with_marginals: bool, report: Progress) -> list[Record]:
        """Dense first, then uniform configurations and probes, marginals, and the best of the former read further.

        Every rung begins with the origin, which all others of the rung are told against.
        """
        base = [(self._origin_name, self._origin)]
        uniform, cut = self._uniform, probes(self.space)
        marginal = marginals(self.space) if with_marginals else []
        total = 4 + len(uniform) + len(cut) + len(marginal)
        found: list[Record] = []

        def read(entries: Iterable[tuple[str, CompressionConfig]], sampler: str, fidelity: Fidelity) -> None:
            for name, config in entries:
                if found and self.budget.spent:
                    return
                found.append(self.scorer.score_config(name, config, sampler, fidelity))
                report(name, len(found), max(total, len(found)), self.budget.seconds_left)

        read([("dense", DENSE_CONFIG)], "baseline", self.candidate)
        if not self.holds_dense:
            read(base, "baseline", self.candidate)
        read([*base, *self._configurations(uniform)], "baseline", self.baseline)
        read(self._configurations(cut), "probe", self.baseline)
        if with_marginals:
            marginal = marginals(self.space, self._ranked_kinds(found))
            read([*base, *self._configurations(marginal)], "marginal", self.marginal)
        for record in self.worth_more(found):
            read([(record.name, record.config)], record.sampler, self.candidate)
        return list({record.index: record for record in found}.values())

    def worth_more(self, found: list[Record]) -> list[Record]:
        """Uniform configurations and probes to be read as far as candidates: whatever a front has to be seen beside.

        The plain ones, those that none other of their width beats, the front of all of them, and the best probes: of
        what meets the limits that need no reading.
        """
        rows = [
            record for record in found
            if record.fidelity == self.baseline and not record.broken
            if record.digest in self.uniform or record.sampler == "probe"
            if self.scorer.admissible(self.space.encode(record.config))
        ]  # fmt: skip
        observed = {record.digest: self.observe(record).values for record in rows}
        widths = dict.fromkeys(made.bits for made in self.uniform.values())
        sets = [rows, *([r for r in rows if self._bits_of(r) == bits] for bits in widths)]
        wanted = {d for d, made in self.uniform.items() if made.plain}
        for some in sets:
            values = np.array([observed[r.digest] for r in some])
            kept = non_dominated(values.reshape(len(some), len(self.settings.objectives)))
            wanted |= {r.digest for r, keep in zip(some, kept, strict=True) if keep}
        tried = sorted((r for r in rows if r.sampler == "probe"), key=lambda r: observed[r.digest])
        wanted |= {record.digest for record in tried[:PROBES]}
        return [record for record in rows if record.digest in wanted]

    def _ranked_kinds(self, found: list[Record]) -> dict[int, list[str]]:
        """By width the methods and named formats, the one that did least harm when everything had it first."""
        evidence = self._problem.evidence()
        for record in found:
            if record.fidelity == self.baseline and record.digest in self.uniform:
                evidence.add(self.observe(record))
        return ranked_kinds(evidence.uniform)

    def _bits_of(self, record: Record) -> int | None:
        """Width of a uniform configuration."""
        made = self.uniform.get(record.digest)
        return None if made is None else made.bits

    def _configurations(self, named: list[Named]) -> list[tuple[str, CompressionConfig]]:
        return [(entry.name, self.space.decode(entry.point)) for entry in named]

    # -- rungs ----------------------------------------------------------------------------------------------

    @property
    def candidate(self) -> Fidelity:
        """On what candidates are read, and whatever they are compared with."""
        return self.fidelity("search", self.settings.candidate_tokens)

    @property
    def baseline(self) -> Fidelity:
        """On what uniform configurations and probes are read first."""
        return self.fidelity("search", self.settings.baseline_tokens)

    @property
    def marginal(self) -> Fidelity:
        """On what marginals are read."""
        return self.fidelity("search", self.settings.marginal_tokens)

    def fidelity(self, text: str, tokens: int | None = None) -> Fidelity:
        """The first windows of a text: so many tokens, or all there are."""
        most = self.windows[text]
        windows = most if tokens is None else min(most, max(2, round(tokens / self.window_tokens)))
        return Fidelity(text=text, windows=windows, window_tokens=self.window_tokens)

    # -- details --------------------------------------------------------------------------------------------

    def _bits(self, point: tuple[int, ...]) -> float:
        found = self.scorer.costs(self.space.decode(point)).get("average_bits")
        return 0.0 if found is None else found.value

    def _stored(self, record: Record) -> None:
        if record.sampler != "marginal" and record.fidelity.text == "search":
            self.storage.add(record)


def versions_of(*evaluators: Any) -> str:
    """Of Paretune and of evaluators, or classes of them: part of the key of every record."""
    return " ".join([f"paretune/{version('paretune')}", *(f"{x.name}/{x.version}" for x in evaluators)])


def _silent(what: str, done: int, total: int | None, seconds_left: float | None) -> None:
    del what, done, total, seconds_left
