"""Finding lm-eval tasks: from a folder offline, or by name from what lm-eval ships (data from the hub).

Tasks are code: their YAML names Python functions (``!function``) and holds Jinja templates that can call any, so
loading a folder runs what is in it.

Source: EleutherAI's lm-evaluation-harness (Gao et al., 2024, https://zenodo.org/records/12608602).
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paretune.spaces.errors import TaskError, UnknownNameError

SEED = 1234
"""Of few-shot examples and whatever a task draws, so that two models see the same and scores repeat."""

_PREFERRED = ("acc_norm", "acc", "exact_match")
_KINDS = ("task", "group", "class")


def quiet_harness() -> None:
    """Silence lm-eval and its neighbours: one warning line per task is noise in a search."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in ("lm_eval", "lm-eval", "evaluate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def same_draws() -> Iterator[None]:
    """What tasks draw from the common generators is the same every time; the generators are left as they were."""
    import torch

    # What is drawn from the old generator of numpy is drawn by the tasks of others.
    python, old = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(old)


def check_task_folder(folder: Path) -> None:
    """Refuse a folder in which lm-eval would read nothing, or pass over a file; runs no task, and takes milliseconds.

    Raises:
        TaskError: names the folder, or the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise TaskError(f"task folder {folder}", "is no folder", "Name a folder of lm-eval YAML files")
    misnamed = sorted(folder.glob("**/*.yml"))
    if misnamed:
        raise TaskError(f"task file {misnamed[0]}", "is not read: lm-eval reads .yaml", "Rename it")
    files = {file: _parsed(file) for file in _task_files(folder)}
    if not any(_kind(content) for content in files.values()):
        raise TaskError(f"task folder {folder}", "holds no task", "Name a folder of lm-eval YAML files")
    included = {place for file, content in files.items() for place in _includes(file, content)}
    for file, content in files.items():
        if not _kind(content) and file.resolve() not in included:
            raise TaskError(
                f"task file {file}",
                "has neither `task` nor `group`, and no other includes it",
                "Name its task",
            )


def load_tasks(names: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Load lm-eval tasks by name.

    Args:
        names: task names; empty takes every task in ``folder``.
        folder: a folder of lm-eval YAML files that need no network; ``None`` looks in what lm-eval ships.

    Returns:
        lm-eval ``Task`` objects by name, groups expanded.

    Raises:
        UnknownNameError: a name is in neither place.
        TaskError: a folder or a file in it that is absent or cannot be read, or a task that cannot be loaded.
    """
    quiet_harness()
    if folder is not None:
        check_task_folder(folder)
    from lm_eval.tasks import TaskManager

    wanted = list(names)
    manager = TaskManager(include_path=None if folder is None else str(folder), include_defaults=False)
    local = set(manager.all_tasks)
    if folder is not None:
        _check_indexed(folder, manager)
        wanted = wanted or sorted(manager.all_subtasks)
    if not set(wanted) <= local:
        # Scanning the harness's own tasks takes seconds, so it is done only for names that need it.
        manager = TaskManager(include_path=None if folder is None else str(folder))
    found: dict[str, Any] = {}
    for name in wanted:
        if name not in manager.all_tasks:
            raise UnknownNameError("task", name, local or manager.all_subtasks[:20])
        try:
            with same_draws():
                found.update(manager.load([name])["tasks"])
        except Exception as error:  # the code of a task may raise anything
            raise TaskError(
                f"task {name}",
                f"cannot be loaded ({type(error).__name__}: {_first_line(error)})",
                "Mend its file, or fetch its data first: nothing is downloaded when offline",
            ) from error
    return found


def main_metric(task: Any) -> str:
    """The metric that stands for a task.

    ``acc_norm`` where it reports one, as the field does; else ``acc``, exact match, or the first mean over items.

    Raises:
        TaskError: no metric of the task is a mean of scores of its items that is better when higher, as those of
            perplexity tasks and F1 over all answers are not.
    """
    better = {str(name): bool(higher) for name, higher in task.higher_is_better().items()}
    ways = {str(name): getattr(way, "__name__", str(way)) for name, way in task.aggregation().items()}
    usable = [name for name, higher in better.items() if higher and ways.get(name) == "mean"]
    for name in (*_PREFERRED, *usable):
        if name in usable:
            return name
    raise TaskError(
        f"task {task.config.task}",
        "has no metric that is a mean over its items and better when higher (it has "
        f"{', '.join(f'{name} by {way}' for name, way in ways.items()) or 'none'})",
        "Name other tasks, or take it out of the folder",
    )


class _Loader(yaml.SafeLoader):
    """YAML in which functions are names."""


_Loader.add_constructor("!function", lambda _, node: str(node.value))


def _task_files(folder: Path) -> list[Path]:
    ignored = {"__pycache__", ".ipynb_checkpoints"}
    return [file for file in sorted(folder.glob("**/*.yaml")) if not ignored & set(file.parts)]


def _parsed(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 -- a safe loader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise TaskError(
            f"task file {file}",
            f"cannot be read ({_first_line(error)})",
            "Mend it, or take it out of the folder",
        ) from error
    name = content.get("task") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(name, str | list | None):
        raise TaskError(
            f"task file {file}",
            "is no description of a task" if name is None else f"calls its task {name!r}, which is no name",
            "Mend it, or take it out of the folder",
        )
    for place in _includes(file, content):
        if not place.is_file():
            raise TaskError(f"task file {file}", f"includes {place}, which is no file", "Mend its `include`")
    return content


def _includes(file: Path, content: dict[str, Any]) -> list[Path]:
    asked = content.get("include", [])
    return [(file.parent / str(place)).resolve() for place in (asked if isinstance(asked, list) else [asked])]


def _kind(content: dict[str, Any]) -> bool:
    return any(key in content for key in _KINDS)


def _check_indexed(folder: Path, manager: Any) -> None:
    """Refuse files that lm-eval passed over.

    Raises:
        TaskError: names the first.
    """
    known = {Path(entry.yaml_path).resolve() for entry in manager.task_index.values() if entry.yaml_path}
    for file in _task_files(folder):
        if _kind(_parsed(file)) and file.resolve() not in known:
            raise TaskError(
                f"task file {file}",
                "is passed over by lm-eval: another file has a task of its name, or what it includes is no task file",
                "Mend it, or take it out of the folder",
            )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
