"""A search: baselines, probes and marginals first, then what the sampler proposes, cheap readings first.

Every step asks the record file whether it was done before, and the sampler goes on from its state, so a run that was
killed goes on where it stopped: it loses at most the candidate under way and repeats nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from paretune.search.baselines import Named, best_kinds, marginals, probes, uniform_configurations
from paretune.search.budget import Budget
from paretune.search.evidence import Evidence
from paretune.search.feasibility import check_feasible, check_measured
from paretune.search.observation import Problem
from paretune.search.records import RecordFile
from paretune.search.samplers import find_sampler
from paretune.search.samplers.sampler import Sampler
from paretune.search.scoring import Scorer
from paretune.search.settings import SearchSettings
from paretune.search.storage import StudyStorage
from paretune.search.trials import Trials
from paretune.spaces.evaluator import Evaluator
from paretune.spaces.measurement import Fidelity, Record
from paretune.spaces.space import Point, SearchSpace

Progress = Callable[[str, int, int | None, float | None], None]
"""Called with what is being done, how many are done, of how many (if known) and the seconds left (if known)."""

_NEAR = 1.1
"""A candidate that loses at most this many times what the measured front loses to dense is read further."""


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
        self.storage = StudyStorage(folder, settings.objectives)
        self.scorer = Scorer(
            space, quality, cost, self.records, settings.objectives, settings.parsed_limits, self._stored
        )
        self._problem = Problem(space, settings.objectives, self.scorer.cost_of, self.scorer.admissible)
        known = self.scorer.costs(space.decode(space.dense()))
        check_measured(settings.objectives, settings.parsed_limits, quality.metrics, known)
        check_feasible(space, self.scorer.costs, settings.parsed_limits)
        for record in self.records:
            self._stored(record)
        self.budget = Budget(settings, self.records)
        self.exhausted_space = False
        self._dense_quality = 0.0
        self._best: list[tuple[float, tuple[float, ...]]] = []

    def run(self, progress: Progress | None = None) -> None:
        """Search until the budget ends or nothing new can be proposed.

        Settings without minutes, evaluations and candidates have no budget that ends.
        """
        report = progress or _silent
        sampler = find_sampler(self.settings.sampler)(self._problem, self.settings.seed)
        known = self._first(sampler.uses_marginals, report)
        for record in known:
            sampler.tell(self.scorer.observation(record))
        trials = self._resumed(sampler)
        for trial, point in list(trials.pending.items()):
            self._evaluate(trials, trial, point, sampler)
        while not self.budget.exhausted(trials.asked):
            proposed = sampler.propose(trials.asked)
            if proposed is None:
                self.exhausted_space = True
                break
            self._evaluate(trials, trials.ask(proposed, sampler.state()), proposed, sampler)
            done, most = trials.asked, self.settings.max_candidates
            report(f"{done} candidates", done, most, self.budget.seconds_left)

    def _resumed(self, sampler: Sampler) -> Trials:
        """Bring a new sampler to where that of an earlier run in this folder was."""
        told = {record.trial: record for record in self.records if record.trial is not None}
        for record in told.values():
            sampler.tell(self.scorer.observation(record))
            self._look_closer(record)
        trials = Trials(self.folder, told.keys())
        if trials.state:
            sampler.restore(trials.state)
        return trials

    def _evaluate(self, trials: Trials, trial: int, point: Point, sampler: Sampler) -> None:
        name = f"p{trial:03d}-{self._bits(point):.2f}b"
        record = self.scorer.score(name, point, self.settings.sampler, self._candidate, trial)
        sampler.tell(self.scorer.observation(record))
        trials.told(trial)
        self._look_closer(record)

    # -- before the sampler ---------------------------------------------------------------------------------

    def _first(self, with_marginals: bool, report: Progress) -> list[Record]:
        """Dense first, then uniform configurations, probes and, where the sampler wants them, marginals."""
        uniform, cut = uniform_configurations(self.space), probes(self.space)
        plan: list[tuple[str, Fidelity, list[Named]]] = [
            ("baseline", self._candidate, [Named("dense", self.space.dense()), *uniform]),
            ("probe", self._candidate, cut),
        ]
        total = 1 + len(uniform) + len(cut) + (len(marginals(self.space)) if with_marginals else 0)
        found: list[Record] = []
        for sampler, fidelity, named in plan:
            self._read(named, sampler, fidelity, found, total, report)
        if with_marginals:
            named = marginals(self.space, self._best_kinds(found))
            self._read(named, "marginal", self._marginal, found, total, report)
        return found

    def _best_kinds(self, found: list[Record]) -> dict[int, str]:
        """By width the method or named format that did least harm when everything had it."""
        evidence = Evidence(self._problem)
        for record in found:
            evidence.add(self.scorer.observation(record))
        return best_kinds(evidence.uniform)

    def _read(
        self, named: list[Named], sampler: str, fidelity: Fidelity, found: list[Record], total: int,
        report: Progress,
    ) -> None:  # fmt: skip
        for entry in named:
            if found and self.budget.spent:
                return
            found.append(self.scorer.score(entry.name, entry.point, sampler, fidelity))
            if len(found) == 1:
                self._dense_quality = self.scorer.observation(found[0]).values[0]
            self._note(found[-1])
            report(entry.name, len(found), total, self.budget.seconds_left)

    # -- rungs ----------------------------------------------------------------------------------------------

    @property
    def _candidate(self) -> Fidelity:
        return self.fidelity("search", self.settings.candidate_tokens)

    @property
    def _marginal(self) -> Fidelity:
        return self.fidelity("search", self.settings.marginal_tokens)

    def fidelity(self, text: str, tokens: int | None = None) -> Fidelity:
        """The first windows of a text: so many tokens, or all there are."""
        most = self.windows[text]
        windows = most if tokens is None else min(most, max(2, round(tokens / self.window_tokens)))
        return Fidelity(text=text, windows=windows, window_tokens=self.window_tokens)

    def _look_closer(self, record: Record) -> None:
        """Read a promising candidate on more windows, as a nested prefix."""
        near = self._note(record)
        if near:
            longer = self.fidelity("search", self.settings.promising_tokens)
            if longer.windows > record.fidelity.windows:
                self.scorer.score_config(record.name, record.config, record.sampler, longer)

    def _note(self, record: Record) -> bool:
        """Keep the measured front of the first rung; whether the record is on it or near it."""
        observation = self.scorer.observation(record)
        if record.sampler == "marginal" or not observation.feasible:
            return False
        lost, costs = observation.values[0] - self._dense_quality, observation.values[1:]
        rivals = [known for known, other in self._best if _all_at_most(other, costs)]
        least = min(rivals, default=math.inf)
        if lost < least:
            self._best = [
                (known, other)
                for known, other in self._best
                if known < lost or not _all_at_most(costs, other)
            ]
            self._best.append((lost, costs))
        return lost <= least or lost <= _NEAR * least

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


def readings(records: Iterable[Record], text: str) -> dict[str, Record]:
    """The longest reading of every candidate on a text, by digest; marginals and what has no quality are left out."""
    found: dict[str, Record] = {}
    for record in records:
        if record.fidelity.text != text or record.sampler == "marginal" or record.broken:
            continue
        known = found.get(record.digest)
        if known is None or record.fidelity.tokens > known.fidelity.tokens:
            found[record.digest] = record
    return found


def _all_at_most(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def _silent(what: str, done: int, total: int | None, seconds_left: float | None) -> None:
    del what, done, total, seconds_left
