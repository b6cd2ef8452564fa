"""``task``: how much the loss of a task's answers rises without a part.

What a text in general needs and what a task needs differ; here only the tokens count that the caller marks as answers.
A score may be negative: the task is done better without the part.
"""

from __future__ import annotations

from typing import Any

import torch

from paretune.compressors.observation import micro_batches
from paretune.compressors.rankings.ranking import AnswerTokens, Ranking, Scene
from paretune.compressors.rankings.removal_pass import TOO_MANY, score_removals
from paretune.spaces.errors import RunError

_TOKENS_AT_ONCE = 2048


class Task(Ranking):
    """Rise of the mean loss of answer tokens, in nats."""

    name = "task"
    refusals = {"channels": TOO_MANY, "width": TOO_MANY}  # noqa: RUF012 -- never changed
    needs_answers = True

    def scores(self, scene: Scene) -> dict[str, torch.Tensor]:
        """Of every group of heads and every block.

        Raises:
            RunError: no answers were given.
        """
        answers = scene.answers
        if answers is None:
            raise RunError(
                "ranking 'task'", "needs the answer tokens of a task", "Call Bank.rank('task', answers=...)"
            )
        answers.windows.check_vocabulary(scene.spec.vocabulary)
        whole = answer_loss(scene.model, answers)
        return score_removals(scene.model, scene.spec, lambda: answer_loss(scene.model, answers) - whole)


@torch.inference_mode()
def answer_loss(model: Any, answers: AnswerTokens) -> float:
    """Mean next-token loss of the answer tokens, in nats."""
    total, start = 0.0, 0
    for ids in micro_batches(answers.windows.ids, _TOKENS_AT_ONCE):
        moved = ids.to(model.device)
        logits = model(input_ids=moved, use_cache=False).logits[:, :-1].to(torch.float32)
        marked = answers.mask[start : start + len(ids), 1:].to(model.device)
        found = torch.log_softmax(logits[marked], dim=-1).gather(-1, moved[:, 1:][marked][:, None])
        total -= float(found.to(torch.float64).sum())
        start += len(ids)
    return total / int(answers.mask.sum())
