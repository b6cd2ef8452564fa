"""Whether a quantized model is worse than its base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from paretune import demo
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_checkpoint, load_tokenizer, require_same_tokenizer
from paretune.compressors.windows import read_windows
from paretune.evaluators.tasks import TaskScorer, TaskSettings
from paretune.pipeline.checkpoints import Checkpoint, read_facts
from paretune.pipeline.finish import scores_by_task
from paretune.pipeline.models import EMBEDDED, model_folder
from paretune.pipeline.progress import Stages
from paretune.spaces.errors import (
    BrokenCandidateError,
    LimitTextError,
    ModelError,
    TextError,
    VerificationError,
)
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Measurement
from paretune.spaces.statistics import compare_items

_LIMITED = ("kl", "kl_p99", "top1_agreement", "perplexity")


@dataclass(frozen=True)
class CheckRequest:
    """What is compared, and on what.

    Attributes as the words of :func:`paretune.check`.
    """

    checkpoint: str
    base: str
    text: Path | None = None
    windows: int = 64
    window_tokens: int = 256
    tasks: Path | None = None
    task_names: tuple[str, ...] = ()
    task_limit: int | None = None


@dataclass(frozen=True)
class Checked:
    """What :func:`check_checkpoint` found.

    Attributes:
        figures: ``kl``, ``kl_p99`` (nat), ``top1_agreement``, ``perplexity``, ``perplexity_base`` ..., and ``tasks``
            by name.
        failures: what is worse than allowed, in words.
        judged: whether there was anything to be worse than: a limit or a task.
    """

    figures: dict[str, Any]
    failures: tuple[str, ...]
    judged: bool

    @property
    def passed(self) -> bool:
        """Whether it is not worse than allowed."""
        return not self.failures

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**self.figures, "failures": list(self.failures), "judged": self.judged}


def check_checkpoint(
    request: CheckRequest, limits: Sequence[Limit], p_value: float, stages: Stages
) -> Checked:
    """Whether a checkpoint is worse than its base by more than the limits allow.

    Args:
        request: what is compared.
        limits: on metrics of quality.
        p_value: a task counts as worse below this p of a paired test.
        stages: tells what is being done.

    Raises:
        LimitTextError: a limit on something that is not measured here.
        TextError: no text, or one shorter than a window.
        ModelError: tokenizers that do not match.
    """
    for limit in limits:
        if limit.metric not in _LIMITED:
            raise LimitTextError(
                f"limit {limit.text}", "is not measured by a check", f"Use {', '.join(_LIMITED)}"
            )
    if request.base == EMBEDDED:
        text, tasks = request.text or demo.TEXTS / "report.txt", request.tasks or demo.TASKS
        request = replace(request, text=text, tasks=tasks)
    figures = compare(request, stages)
    judged = bool(limits) or bool(figures.get("tasks"))
    return Checked(figures, tuple(failures(figures, limits, p_value)), judged)


def compare(request: CheckRequest, stages: Stages) -> dict[str, Any]:
    """Quality of the checkpoint against its base, and the paired task tests."""
    with stages.stage("start", "loading the base"):
        if request.text is None:
            raise TextError("no text", "both models are read on one text", "Give --text FILE")
        if not request.text.is_file():
            raise TextError(f"text {request.text}", "is no file", "Name a text file in UTF-8")
        base_folder, folder = model_folder(request.base), model_folder(request.checkpoint)
        _refuse_unlike(base_folder, folder, request.window_tokens)
        require_same_tokenizer(base_folder, folder)
        tokenizer, tokens = load_tokenizer(base_folder), request.window_tokens
        scorer = None
        if request.tasks is not None or request.task_names:
            settings = TaskSettings(request.task_names, request.tasks, request.task_limit)
            scorer = TaskScorer(tokenizer, settings)
        read = read_windows(tokenizer, request.text, text="check", window_tokens=tokens, most=request.windows)
        dense = load_checkpoint(base_folder)
    with stages.stage("base", f"reading the base on {read.count} windows"):
        teacher = Teacher(dense, read, progress=partial(stages.report, "windows"))
    stages.expected["checkpoint"] = stages.spent["base"]
    with stages.stage("checkpoint", "loading the checkpoint and reading it on the same"):
        candidate = load_checkpoint(folder)
        try:
            found = teacher.compare(candidate).measurements()
        except BrokenCandidateError as error:
            place = f"predictions of {request.checkpoint}"
            raise VerificationError(place, error.rule, "Make it again in wider formats") from error
    result: dict[str, Any] = {
        "base": request.base,
        "checkpoint": request.checkpoint,
        "windows": read.count,
        **{name: measured.value for name, measured in found.items()},
        "kl_stderr": found["kl"].stderr,
        "clustered_by": found["kl"].clustered_by,
    }
    result["perplexity_base"] = float(teacher.loss.mean().exp())
    if scorer is not None:
        names, total = list(scorer.tasks), 2 * len(scorer.tasks)
        with stages.stage("tasks", "scoring both on tasks"):
            before = scores_by_task(scorer, dense, names, stages, "base", 0, total)
            after = scores_by_task(scorer, candidate, names, stages, "checkpoint", len(names), total)
            result["tasks"] = paired_tasks(before, after)
    return result


def _refuse_unlike(base: Path, folder: Path, window_tokens: int) -> None:
    """Refuse before anything is loaded what cannot be compared.

    Raises:
        ModelError: a checkpoint that cannot be loaded, or their vocabularies are not of one size.
        TextError: windows longer than the context of one of them.
    """
    first, second = (read_facts(Checkpoint(str(place), str(place), place)) for place in (base, folder))
    if first.rows != second.rows:
        raise ModelError(
            f"vocabularies of {first.rows:,} and {second.rows:,} rows in {base} and {folder}",
            "must be of one size: the divergence is over the same tokens",
            "Compare a checkpoint with the model it was made from",
        )
    context = min(facts.context or window_tokens for facts in (first, second))
    if window_tokens > context:
        place = f"windows of {window_tokens} tokens"
        raise TextError(place, f"the context is {context}", "Give a smaller --window-tokens")


def paired_tasks(
    base: dict[str, Measurement], candidate: dict[str, Measurement]
) -> dict[str, dict[str, Any]]:
    """Scores side by side with the paired test of each task: McNemar's where items are right or wrong."""
    rows: dict[str, dict[str, Any]] = {}
    for name, before in base.items():
        test = compare_items(candidate[name], before)
        rows[name] = {
            "base": before.value,
            "checkpoint": candidate[name].value,
            "items": test.difference.n,
            "difference": test.difference.value,
            "difference_stderr": test.difference.stderr,
            "metric": before.by,
            "test": test.test,
            "only_base_right": test.only_second,
            "only_checkpoint_right": test.only_first,
            "p_value": test.p_value,
        }
    return rows


def failures(result: dict[str, Any], limits: Sequence[Limit], p_value: float) -> list[str]:
    """What is worse than allowed, in words; empty when all is well."""
    found = [
        f"{limit.metric} is {result[limit.metric]:.4g}, the limit is {limit.text}"
        for limit in limits
        if not limit.violation(result[limit.metric]) <= 0
    ]
    for name, row in result.get("tasks", {}).items():
        if row["p_value"] < p_value and row["difference"] < 0:
            found.append(
                f"{name} fell from {row['base']:.3f} to {row['checkpoint']:.3f} "
                f"({row['test']}, p = {row['p_value']:.1g})"
            )
    return found
