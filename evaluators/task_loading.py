"""Finding lm-eval tasks: from a folder offline, or by name from what lm-eval ships (data from the hub).

Source: EleutherAI's lm-evaluation-harness (Gao et al., 2024, https://zenodo.org/records/12608602).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.spaces.errors import UnknownNameError

_PREFERRED = ("acc", "exact_match", "f1", "acc_norm")


def quiet_harness() -> None:
    """Silence lm-eval and its neighbours: one warning line a task is noise in a search."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in ("lm_eval", "lm-eval", "evaluate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def load_tasks(names: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Load lm-eval tasks by name.

    Args:
        names: task names; empty takes every task in ``folder``.
        folder: a folder of lm-eval YAML files that need no network; ``None`` looks in what lm-eval ships.

    Returns:
        lm-eval ``Task`` objects by name, groups expanded.

    Raises:
        UnknownNameError: a name is in neither place.
    """
    quiet_harness()
    from lm_eval.tasks import TaskManager

    wanted = list(names)
    manager = TaskManager(include_path=None if folder is None else str(folder), include_defaults=False)
    local = set(manager.all_tasks)
    if folder is not None and not wanted:
        wanted = sorted(manager.all_subtasks)
    if not set(wanted) <= local:
        # Scanning the harness's own tasks takes seconds, so it is done only for names that need it.
        manager = TaskManager(include_path=None if folder is None else str(folder))
    for name in wanted:
        if name not in manager.all_tasks:
            raise UnknownNameError("task", name, local or manager.all_subtasks[:20])
    return dict(manager.load(wanted)["tasks"])


def main_metric(task: Any) -> str:
    """The metric that stands for a task: accuracy or exact match where it has one, else its first.

    Raises:
        UnknownNameError: every metric of the task is better when lower.
    """
    better = {str(name): bool(higher) for name, higher in task.higher_is_better().items()}
    usable = [name for name, higher in better.items() if higher]
    for name in (*_PREFERRED, *usable):
        if name in usable:
            return name
    raise UnknownNameError("metric that is better when higher", str(task.task_name), usable)
