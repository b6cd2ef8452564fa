"""The tasks load offline from any working directory, and the model answers above chance through lm-eval."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from paretune import demo

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        manager = TaskManager(include_path=str(demo.TASKS), include_defaults=False)
        assert sorted(manager.all_subtasks) == sorted(demo.TASK_NAMES)
        return dict(manager.load(list(demo.TASK_NAMES))["tasks"])


def test_every_task_has_its_items(tasks: dict[str, Any]) -> None:
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == dict.fromkeys(demo.TASK_NAMES, 400)
    kinds = {name: task.config.output_type for name, task in tasks.items()}
    assert [name for name, kind in kinds.items() if kind == "generate_until"] == ["demo_arithmetic"]


def test_the_model_answers_above_chance(tasks: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL, local_files_only=True).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL, local_files_only=True)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    outcome = lm_eval.evaluate(harness, {"tasks": tasks}, limit=24, bootstrap_iters=100)
    scores = {
        name: row.get("acc,none", row.get("exact_match,none")) for name, row in outcome["results"].items()
    }
    assert set(scores) == set(demo.TASK_NAMES)
    # Twenty-four items; chance is 6 of them (arithmetic: none), and 11 or more by chance has p = 0.02.
    assert all(score >= 11 / 24 for score in scores.values()), scores
