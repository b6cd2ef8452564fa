"""Task scores of a candidate through lm-eval, with standard errors and the score of every item.

The harness sees the assembled model in memory; weights swapped in place are seen by the same object, so the
tasks are loaded and tokenized once.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.evaluators.execution import Executed, as_stored
from paretune.evaluators.task_loading import SEED, load_tasks, main_metric, quiet_harness, same_draws
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ModelError, TaskError, UnknownNameError
from paretune.spaces.evaluator import Evaluator
from paretune.spaces.measurement import Fidelity, Measurement, Sample
from paretune.spaces.statistics import measure

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler


FEWEST_ITEMS = 8
"""Of a task, at the least, in each reading that a search chooses or reports by."""


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks, and how much of each.

    Attributes:
        names: task names; empty with a folder takes all of it.
        folder: lm-eval YAML files that need no network.
        limit: items of each task, ``None`` for all.
        batch_size: sequences scored together.
    """

    names: tuple[str, ...] = ()
    folder: Path | None = None
    limit: int | None = None
    batch_size: int = 16


class TaskScorer:
    """Runs a fixed list of tasks on models held in memory.

    Args:
        tokenizer: of the model.
        settings: which tasks.

    Raises:
        UnknownNameError: a task that does not exist.
        TaskError: one that cannot be loaded, or has no score by which models can be compared.
        ModelError: a tokenizer without a token that ends a text; the harness stops generation there.
    """

    def __init__(self, tokenizer: Any, settings: TaskSettings) -> None:
        quiet_harness()
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "a tokenizer without an end-of-text token",
                "tasks need one to know where an answer ends",
                "Set eos_token in tokenizer_config.json, or leave tasks out",
            )
        self.tokenizer = tokenizer
        self.settings = settings
        self.tasks = load_tasks(settings.names, settings.folder)
        self.main_metrics = {name: main_metric(task) for name, task in self.tasks.items()}
        self._harness: tuple[int, Any] | None = None

    def check_searchable(self, names: Collection[str]) -> None:
        """Refuse tasks that a search cannot choose and report by.

        Raises:
            UnknownNameError: a name that is none of the run's tasks.
            TaskError: a task with too few items for two halves.
        """
        for name in names:
            if name not in self.tasks:
                raise UnknownNameError("task", name, self.tasks)
            if (count := self._count(name)) < 2 * FEWEST_ITEMS:
                raise TaskError(
                    f"task {name} with {count} items",
                    f"a search needs {FEWEST_ITEMS} to choose by and as many to report",
                    "Allow more with --task-limit, or take another task",
                )

    def items(self, name: str, text: str, share: float) -> list[int]:
        """Places of the items of a task that go with a text: every second one, so that what chooses reports nothing.

        Args:
            name: of the task.
            text: ``search`` or ``report``.
            share: of the text that is read: the first so many items, but never fewer than a few.
        """
        half = range(int(text == "report"), self._count(name), 2)
        return list(half[: max(FEWEST_ITEMS, round(share * len(half)))])

    def all_items(self, names: Collection[str]) -> dict[str, list[int]]:
        """Places of every item of some tasks, as far as the settings go."""
        return {name: list(range(self._count(name))) for name in names}

    def _count(self, name: str) -> int:
        """Items of a task, as many as the settings allow."""
        there = len(self.tasks[name].eval_docs)
        return there if self.settings.limit is None else min(there, self.settings.limit)

    def score(self, model: Any, items: Mapping[str, list[int]] | None = None) -> dict[str, Measurement]:
        """Score ``model`` (a ``transformers`` causal language model).

        Few-shot examples are the same in every call, so scores repeat, and those of two models can be paired.

        Args:
            model: of any arithmetic.
            items: tasks, and places of the items in each; :meth:`all_items` of every task if left out.

        Returns:
            By name of the task, with the score of every item.
        """
        import lm_eval

        items = self.all_items(self.tasks) if items is None else items
        tasks = {name: self.tasks[name] for name in items}

        # The harness draws a progress bar for every list of requests; the caller shows its own.
        with contextlib.redirect_stderr(io.StringIO()), same_draws():
            for task in tasks.values():
                task.set_fewshot_seed(SEED)
            outcome = lm_eval.evaluate(
                self._wrapped(model),
                {"tasks": tasks},
                samples=dict(items),
                bootstrap_iters=0,
                log_samples=True,
            )
        if outcome is None:
            raise RuntimeError("lm-eval returned nothing: it was started as a secondary rank")
        return {name: self._read(name, outcome) for name in tasks}

    def _wrapped(self, model: Any) -> Any:
        from lm_eval.models.huggingface import HFLM

        if self._harness is None or self._harness[0] != id(model):
            wrapped = HFLM(pretrained=model, tokenizer=self.tokenizer, batch_size=self.settings.batch_size)
            self._harness = (id(model), wrapped)
        return self._harness[1]

    def _read(self, name: str, outcome: Any) -> Measurement:
        metric = self.main_metrics[name]
        results = outcome["results"][name]
        # A task with several filters (ways to find the answer in a text) has a value, and a sample of every item, for
        # each: the first one stands for the task.
        chosen = next(key.partition(",")[2] for key in results if key.partition(",")[0] == metric)
        samples = sorted(
            (sample for sample in outcome["samples"][name] if sample["filter"] == chosen),
            key=lambda sample: int(sample["doc_id"]),
        )
        items = Sample(windows=tuple(str(sample["doc_hash"])[:12] for sample in samples), unit="item")
        return measure([float(sample[metric]) for sample in samples], items, by=f"lm-eval {metric}")


class TaskEvaluator:
    """The :class:`paretune.spaces.evaluator.Evaluator` of quality on a text and of lm-eval tasks: ``task.NAME``.

    Of a task's items as large a share is read as of the text; those that choose are others than those that report.

    Args:
        quality: reads the text.
        assembler: makes the candidate.
        scorer: of tasks.
        names: of the tasks that are searched on.
        windows: available windows by text.
        executed: the candidate as the engine computes it on the device; as it is stored if left out.

    Raises:
        UnknownNameError: a name that is none of the scorer's tasks.
        TaskError: a task with too few items.
    """

    def __init__(
        self,
        quality: Evaluator,
        assembler: Assembler,
        scorer: TaskScorer,
        names: Collection[str],
        windows: Mapping[str, int],
        executed: Executed = as_stored,
    ) -> None:
        scorer.check_searchable(names)
        self._quality, self._assembler, self._scorer = quality, assembler, scorer
        self._names, self._windows, self._executed = tuple(names), dict(windows), executed
        self.name = quality.name
        self.version = f"{quality.version} tasks/1"
        self.metrics = (*quality.metrics, *(f"task.{name}" for name in self._names))

    def evaluate(self, config: CompressionConfig, fidelity: Fidelity) -> Mapping[str, Measurement]:
        """Read the windows, and the items that go with them; ``per_window`` of a task holds the score of every item.

        Raises:
            ParetuneError: as the evaluator of the text.
        """
        found = dict(self._quality.evaluate(config, fidelity))
        share = fidelity.windows / self._windows[fidelity.text]
        items = {name: self._scorer.items(name, fidelity.text, share) for name in self._names}
        scores = self._scorer.score(self._assembler.apply(self._executed(config)), items)
        return found | {f"task.{name}": score for name, score in scores.items()}
