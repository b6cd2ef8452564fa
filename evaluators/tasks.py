"""Task scores of a candidate through lm-eval, with standard errors and the score of every item.

The harness sees the assembled model in memory; weights swapped in place are seen by the same object, so the
tasks are loaded and tokenized once.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.evaluators.execution import Executed, as_stored
from paretune.evaluators.task_loading import SEED, load_tasks, main_metric, quiet_harness, same_draws
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ModelError
from paretune.spaces.measurement import Fidelity, Measurement, Sample
from paretune.spaces.statistics import measure

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler


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

    def score(self, model: Any) -> dict[str, Measurement]:
        """Score ``model`` (a ``transformers`` causal language model) on every task.

        Few-shot examples are the same in every call, so scores repeat, and those of two models can be paired.

        Returns:
            By name of the task, with the score of every item.
        """
        import lm_eval

        # The harness draws a progress bar for every list of requests; the caller shows its own.
        with contextlib.redirect_stderr(io.StringIO()), same_draws():
            for task in self.tasks.values():
                task.set_fewshot_seed(SEED)
            outcome = lm_eval.evaluate(
                self._wrapped(model),
                {"tasks": self.tasks},
                limit=self.settings.limit,
                bootstrap_iters=0,
                log_samples=True,
            )
        if outcome is None:
            raise RuntimeError("lm-eval returned nothing: it was started as a secondary rank")
        return {name: self._read(name, outcome) for name in self.tasks}

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
    """The :class:`paretune.spaces.evaluator.Evaluator` over lm-eval tasks: ``task.NAME`` with standard errors.

    Windows of a fidelity mean nothing to a task: the number of items is fixed by the settings.
    """

    name = "tasks"
    version = "1"

    def __init__(self, assembler: Assembler, scorer: TaskScorer, executed: Executed = as_stored) -> None:
        self._assembler = assembler
        self._executed = executed
        self._scorer = scorer
        self._seen: dict[str, dict[str, Measurement]] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """``task.NAME`` for every task."""
        return tuple(f"task.{name}" for name in self._scorer.tasks)

    def evaluate(
        self, config: CompressionConfig, fidelity: Fidelity | None = None
    ) -> Mapping[str, Measurement]:
        """Score ``config`` on every task; ``per_window`` holds the score of every item."""
        del fidelity
        if config.digest not in self._seen:
            scores = self._scorer.score(self._assembler.apply(self._executed(config)))
            self._seen[config.digest] = {f"task.{name}": score for name, score in scores.items()}
        return self._seen[config.digest]
