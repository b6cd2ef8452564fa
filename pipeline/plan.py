"""What a search is about to spend: minutes by stage, from a probe of seconds, disk and memory, and what lowers each.

Every part of the probe is a small piece of the work itself: the dense model on two windows, one token, a layer of each
shape by each method, a few items of each task.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.bank import offered_entries
from paretune.compressors.covariance import covariance_bytes, keeper
from paretune.compressors.entries import Entry, make_tensors
from paretune.compressors.entry_store import EntryStore
from paretune.compressors.reading import Reader, batch_tokens
from paretune.compressors.scaled_block import scale_block
from paretune.compressors.statistics import LayerStatistics, Statistics, gather
from paretune.compressors.weight_source import WeightSource
from paretune.evaluators.cost import CostEvaluator
from paretune.pipeline.finish import CHECKED
from paretune.pipeline.memory import share_memory
from paretune.pipeline.profiling import asks_for_time
from paretune.pipeline.progress import Stages
from paretune.pipeline.targets import why_untimed
from paretune.pipeline.workbench import Prepared
from paretune.search.baselines import Named, marginals, probes, uniform_configurations
from paretune.search.samplers import find_sampler
from paretune.search.study import PROBES
from paretune.spaces.model import Linear
from paretune.spaces.numerals import quantity
from paretune.spaces.space import SearchSpace

_LAYER_SECONDS = 20.0
"""After which no further layer is tried: the rest costs by its weights."""
_FEW_WEIGHTS = 20_000_000
"""Of a larger layer one format is tried alone."""
_WINDOWS, _ITEMS = 2, 4
_EVALUATION = 16_384
_PROFILED_MODELS, _PROFILE_S, _ENGINE_START_S = 9, 15.0, 10.0
_EXPORT_PASSES = 3
"""The candidate and its engine on the windows that are verified, and the reference predictions."""

_LOWERED = {
    "bank": "--method weighted, --bits, --windows",
    "dense": "--windows",
    "profile": "another --engine or --device",
    "search": "--minutes",
    "judging": "--windows, front_members in a run file",
    "latency": "measure_latency: false in a run file",
    "tasks": "--task-limit, --task",
    "export": "--no-export",
    "disk": "--bits, --method, --no-export",
    "memory": "memory_budget_bytes in a run file",
    "GPU memory": "memory_budget_bytes in a run file",
}
"""What lowers a stage or another cost."""
_CALLED = {"judging": "judging"}


@dataclass(frozen=True)
class Plan:
    """What a search will take, about.

    Attributes:
        seconds: by stage, as ``run.json`` names them in ``spent``.
        baselines: seconds of the search before the first proposal: uniform configurations, probes, marginals.
        disk_bytes: of the bank and the exports, at most.
        disk_free: bytes.
        memory_bytes: of the process, or of the device that scores, at most.
        memory_free: bytes, 0 where nobody says.
        on_device: whether that memory is a GPU's.
        remarks: what a user should know before it starts.
    """

    seconds: dict[str, float]
    baselines: float
    disk_bytes: int
    disk_free: int
    memory_bytes: int
    memory_free: int
    on_device: bool
    remarks: tuple[str, ...] = field(default=())

    def document(self) -> dict[str, Any]:
        """As JSON; seconds and bytes."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people, each with the switch that lowers it; 80 columns."""
        place = "GPU memory" if self.on_device else "memory"
        free = f" of {quantity(self.memory_free, 'B')}" if self.memory_free else ""
        disk = f"{quantity(self.disk_bytes, 'B')} of {quantity(self.disk_free, 'B')}"
        rows = [(name, _about(seconds)) for name, seconds in self.seconds.items() if seconds >= 1]
        rows.append(("in all", _about(sum(self.seconds.values()))))
        rows += [("disk", disk), (place, f"{quantity(self.memory_bytes, 'B')}{free}")]
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        table = []
        for name, amount in rows:
            lowered = f"  less by {_LOWERED[name]}" if name in _LOWERED else ""
            table.append(f"  {name:<{wide[0]}}  {amount:>{wide[1]}}{lowered}")
        return ["about what is ahead, on this machine as busy as it is now:", *table, *self.remarks]


def make_plan(made: Prepared, folder: Path, stages: Stages) -> Plan:
    """Probe the machine and say what the search will take; nothing is written.

    Args:
        made: the model, its texts and its space, before the bank.
        folder: of the run.
        stages: tells what is being done, and where earlier calls of the run are known: their seconds are not ahead.
    """
    with stages.stage("probe", "timing a little of everything"):
        return _Probe(made, folder).plan(stages.spent)


class _Probe:
    """The parts of a plan, measured when they are asked for."""

    def __init__(self, made: Prepared, folder: Path) -> None:
        self._made, self._folder, self._run = made, folder, made.run
        self._space = SearchSpace(made.spec, made.legality, made.offered)
        bank = Path(made.run.bank) if made.run.bank else folder / "bank"
        self._store = EntryStore(bank)
        offered = list(offered_entries(made.spec, self._space))
        self._entries = [
            entry for entry in offered
            if entry.pruned.whole and not entry.choice.sparsity and entry.name not in self._store
        ]  # fmt: skip
        ids = made.windows["search"].ids
        few, many = ids[:_WINDOWS], ids[: self._batch(ids.shape[1])]
        self._read(many)  # the first pass makes what later ones find
        seconds = self._read(few)
        more = many.numel() - few.numel()
        self._token_s = (self._read(many) - seconds) / more if more > 0 else seconds / few.numel()
        # A GPU takes some milliseconds however few the tokens are.
        self._pass_s = max(0.0, seconds - few.numel() * self._token_s)
        self._step_s = self._read(ids[:1, :1])

    def plan(self, spent: dict[str, float]) -> Plan:
        search, workload = self._run.search, self._run.workload
        tokens = {name: windows.ids.numel() for name, windows in self._made.windows.items()}
        rows, first = self._rows(), self._first()
        before = spent.get("search", 0.0)
        box = None if search.minutes is None else max(0.0, 60 * search.minutes - before)
        if search.max_evaluations is not None:
            one = _EVALUATION * self._token_s + _EVALUATION / search.candidate_tokens * self._pass_s
            counted = max(0.0, search.max_evaluations * one - before)
            box = counted if box is None else min(box, counted)
        if box is None:
            box = first + (search.max_candidates or 0) * search.candidate_tokens * self._token_s
        run_s = self._step_s * (workload.prompt_tokens / 8 + workload.output_tokens) * workload.batch
        timed = not why_untimed(self._made.engine, self._made.device, workload)
        operations = timed and self._made.engine.profiled is not None
        profiled = operations or (timed and asks_for_time(self._run))
        checked = 16 * self._run.texts.window_tokens + 64 * 128
        seconds = {
            "bank": self._bank_s(tokens["calibration"]),
            "dense": (tokens["search"] + tokens["report"]) * self._token_s,
            "profile": (_PROFILE_S + 3 * _PROFILED_MODELS * run_s) * profiled,
            "search": box,
            "judging": rows * tokens["report"] * self._token_s,
            "latency": max(CHECKED, rows / 2) * 3 * run_s * (timed and self._run.measure_latency),
            "tasks": self._tasks_s() * rows / 2,
            "export": (_EXPORT_PASSES * checked * self._token_s + _ENGINE_START_S) * self._run.export,
        }
        disk = self._disk_bytes()
        memory = share_memory(
            self._made.model, self._made.spec, self._space, tokens, self._run.memory_budget_bytes
        )
        there = next(place for place in (self._folder, *self._folder.resolve().parents) if place.is_dir())
        free = shutil.disk_usage(there).free
        on_device = self._made.model.device.type == "cuda"
        return Plan(
            {name: round(found, 1) for name, found in seconds.items()}, round(first, 1),
            disk, free, memory.total, memory.free, on_device, tuple(self._remarks(first, before, box)),
        )  # fmt: skip

    def _remarks(self, first: float, before: float, box: float) -> Iterator[str]:
        if not before and first > box:
            yield (
                f"uniform configurations and probes alone take {_about(first)} of the search: nothing mixed is tried "
                "in less (--minutes, --bits, --method)"
            )

    @torch.inference_mode()
    def _read(self, ids: torch.Tensor) -> float:
        """Seconds of a pass of the dense model, as a candidate is read."""
        model = self._made.model

        reader = Reader(model, tf32=self._made.arithmetic.tf32)

        def read() -> None:
            told = [torch.log_softmax(logits, dim=-1).sum() for logits in reader.logits(ids.to(model.device))]
            torch.stack(told).sum().item()

        return _timed(read)

    def _batch(self, window_tokens: int) -> int:
        """Windows of a pass: as many as a GPU reads together, and few on a CPU, whose time they take."""
        device = self._made.model.device
        return _WINDOWS if device.type == "cpu" else max(_WINDOWS, batch_tokens(device) // window_tokens)

    # -- what is ahead --------------------------------------------------------------------------------------

    def _rows(self) -> int:
        """Configurations that are read on the report text, about: a front, what it is seen beside within the limits."""
        limits, costs = self._run.search.parsed_limits, CostEvaluator(self._made.spec, self._run.workload)

        def within(named: Named) -> bool:
            found = costs.evaluate(self._space.decode(named.point))
            known = [limit for limit in limits if limit.metric in found]
            return all(limit.violation(found[limit.metric].value) <= 0 for limit in known)

        uniform = [made for made in uniform_configurations(self._space) if within(made)]
        widths = {made.uniform.bits for made in uniform if made.uniform}
        tried = sum(within(made) for made in probes(self._space))
        return 1 + self._run.search.front_members + 2 * len(widths) + min(PROBES, tried)

    def _first(self) -> float:
        """Seconds until the sampler proposes."""
        search, space = self._run.search, self._space
        short = len(uniform_configurations(space)) + len(probes(space))
        single = len(marginals(space)) if find_sampler(search.sampler).uses_marginals else 0
        tokens = short * search.baseline_tokens + single * search.marginal_tokens
        most = self._made.windows["search"].ids.numel()
        further = self._rows() - search.front_members
        passes = short + single + further
        return self._token_s * (tokens + further * min(most, search.candidate_tokens)) + passes * self._pass_s

    def _bank_s(self, tokens: int) -> float:
        """Seconds of the statistics, of covariances, and of every entry that is not there."""
        if not self._entries:
            return 0.0
        made, total = self._made, 0.0
        source = WeightSource(made.source, made.model, made.spec)
        few = made.windows["calibration"].first(min(_WINDOWS, made.windows["calibration"].count))
        statistics: list[Statistics] = []
        seconds = _timed(lambda: statistics.append(gather(made.model, made.spec, few, source)))
        if not (self._store.folder / "bank.json").is_file():
            total += seconds / few.ids.numel() * tokens
        if any(entry.needs_covariance for entry in self._entries):
            weights = sum(linear.weights for linear in made.spec.block_linears)
            total += tokens * self._token_s * (1 + covariance_bytes(made.spec) / 4 / weights)
        return total + self._quantizing_s(source, statistics[0])

    def _quantizing_s(self, source: WeightSource, statistics: Statistics) -> float:
        """A layer of each shape by each method, smallest first; those that are not tried by their weights."""
        kinds: dict[tuple[str, tuple[int, int]], list[Entry]] = {}
        for entry in self._entries:
            kinds.setdefault((entry.choice.method, entry.shape), []).append(entry)
        start, total, rates = time.perf_counter(), 0.0, dict[str, float]()
        for (method, shape), entries in sorted(kinds.items(), key=lambda kind: kind[0][1]):
            weights = shape[0] * shape[1]
            if method not in rates or time.perf_counter() - start < _LAYER_SECONDS:
                one = [entry for entry in entries if entry.linear is entries[0].linear]
                tried = one[:1] if weights > _FEW_WEIGHTS or one[0].scaled_name else one
                rates[method] = self._made_in(tried, source, statistics) / len(tried) / weights
            total += rates[method] * len(entries) * weights
        return total

    def _made_in(self, entries: Sequence[Entry], source: WeightSource, statistics: Statistics) -> float:
        """Seconds in which a layer's entries are made; of a method that scales a block, the layer's share of it."""
        first, spec, dtype = entries[0], self._made.spec, getattr(torch, self._made.spec.dtype)

        def seen(linear: Linear) -> LayerStatistics | None:
            found = statistics.layer(linear.name)
            if found is None or not first.needs_covariance:
                return found
            # Any will do: what it costs to use one does not depend on its values.
            size, experts = keeper(spec, linear).in_features, keeper(spec, linear).experts
            unit = torch.eye(size) if experts == 1 else torch.eye(size).expand(experts, size, size)
            return replace(found, covariance=unit, factors={})

        block = first.linear.block
        if first.scaled_name is None or block is None:
            own = seen(first.linear) if first.needs_covariance else None
            return _timed(lambda: make_tensors(entries, source, statistics, dtype, own))
        whole = sum(linear.weights for linear in spec.block_linears if linear.block == block)
        seconds = _timed(
            lambda: scale_block(source, self._made.model, block, first.choice.weight, dtype, seen)
        )
        return seconds * first.linear.weights / whole

    def _tasks_s(self) -> float:
        """Seconds of all tasks of one model."""
        scorer = self._made.scorer
        if scorer is None:
            return 0.0
        total, items = 0.0, scorer.all_items(scorer.tasks)
        for name, places in items.items():
            few = places[:_ITEMS]
            total += _timed(lambda: scorer.score(self._made.model, {name: few})) / len(few) * len(places)  # noqa: B023
        return total

    def _disk_bytes(self) -> int:
        """Of the bank, and of an export: no larger than the dense model; twice where GGUF is written too."""
        bank = sum(entry.file_bytes() for entry in self._entries)
        if any(entry.needs_covariance for entry in self._entries):
            bank += covariance_bytes(self._made.spec)
        costs = CostEvaluator(self._made.spec, self._run.workload)
        dense = costs.evaluate(self._space.decode(self._space.origin()))["weight_bytes"].value
        return round(bank + dense * (self._run.export + self._run.gguf))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _about(seconds: float) -> str:
    """To what a probe can tell: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
