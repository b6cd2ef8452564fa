"""A light scorer of held-out items, to watch training; the figures in the README come from lm-eval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paretune.demo.capabilities import CAPABILITIES
from paretune.demo.generate import items

_ROWS = 128


@torch.inference_mode()
def score(logits: Callable[[Tensor], Tensor], tokenizer: Any, device: str, count: int) -> dict[str, float]:
    """Share of held-out items answered right, by capability.

    Args:
        logits: token ids (batch, tokens) to logits (batch, tokens, vocabulary).
        tokenizer: of the model.
        device: of the model.
        count: items of each capability.

    Returns:
        Multiple choice: how often the right continuation is the likeliest; generative: how often the greedy
        answer is exact, its end included.
    """
    found = {}
    for capability in CAPABILITIES:
        rows: list[tuple[list[int], list[int]]] = []
        owners: list[tuple[int, bool]] = []
        for number, item in enumerate(items(capability, count)):
            end = ";" if capability.generative else ""
            for index, choice in enumerate(item["choices"]):
                rows.append((_ids(tokenizer, item["prompt"]), _ids(tokenizer, choice + end)))
                owners.append((number, index == item["gold"]))
        grades = _grades(logits, rows, device)
        if capability.generative:
            found[capability.name] = sum(exact for _, exact in grades) / count
        else:
            best: dict[int, tuple[float, bool]] = {}
            for (number, right), (likelihood, _) in zip(owners, grades, strict=True):
                best[number] = max(best.get(number, (-torch.inf, False)), (likelihood, right))
            found[capability.name] = sum(right for _, right in best.values()) / count
    return found


def _grades(
    logits: Callable[[Tensor], Tensor], rows: list[tuple[list[int], list[int]]], device: str
) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation, and whether greedy decoding writes it."""
    grades = []
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        longest = max(len(prompt) + len(answer) for prompt, answer in part)
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        asked = torch.zeros(len(part), longest - 1, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(part):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            asked[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
        logs = logits(ids.to(device))[:, :-1].float().log_softmax(-1).cpu()
        chosen = logs.gather(-1, ids[:, 1:, None])[..., 0]
        exact = ((logs.argmax(-1) == ids[:, 1:]) | ~asked).all(-1)
        grades += list(zip((chosen * asked).sum(-1).tolist(), exact.tolist(), strict=True))
    return grades


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])
