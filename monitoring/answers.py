"""Log-probabilities of the next token as servers return them: four shapes of one answer.

* OpenAI's completions (also vLLM's): ``choices[0].logprobs.top_logprobs[0]`` is an object, text: log-probability.
  vLLM names tokens ``token_id:N`` when it is asked to.
* llama.cpp's ``/v1/completions``: ``choices[0].logprobs.content[0].top_logprobs``, a list of objects with ``id``.
* llama.cpp's ``/completion``: ``completion_probabilities[0].top_logprobs``, the same list.
* chat-like lists without ``id`` are read by ``token``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from paretune.monitoring.errors import MonitorError

_PLACEHOLDER = "token_id:"


@dataclass(frozen=True)
class Answer:
    """What a server says of the next token.

    Exactly one of both is filled.

    Attributes:
        by_id: log-probability in nats by token.
        by_text: the same by the token's text, where the server does not name ids.
    """

    by_id: dict[int, float]
    by_text: dict[str, float]


class UnreadableAnswerError(MonitorError):
    """The server answered, but not with a distribution: no number, or none for any token."""

    def __init__(self, rule: str) -> None:
        super().__init__("the answer", rule, "Ask a server that returns log-probabilities")

    def __reduce__(self) -> tuple[type[UnreadableAnswerError], tuple[str]]:  # type: ignore[override]
        return (type(self), (self.rule,))


def read_answer(document: Any) -> Answer:
    """The distribution in the JSON that a completions endpoint returned.

    Raises:
        UnreadableAnswerError: there is none, or it is not made of finite numbers that are no probability above 1.
    """
    try:
        return _answer(_distribution(document))
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise UnreadableAnswerError(f"has no log-probabilities ({type(error).__name__}: {error})") from error


def _distribution(document: Any) -> Any:
    if "completion_probabilities" in document:
        return document["completion_probabilities"][0]["top_logprobs"]
    found = document["choices"][0]["logprobs"]
    if "content" in found:
        return found["content"][0]["top_logprobs"]
    return found["top_logprobs"][0]


def _answer(found: Any) -> Answer:
    if isinstance(found, dict):
        if not found:
            raise UnreadableAnswerError("names no token")
        if all(name.startswith(_PLACEHOLDER) for name in found):
            return Answer({int(n.removeprefix(_PLACEHOLDER)): _number(v) for n, v in found.items()}, {})
        return Answer({}, {name: _number(value) for name, value in found.items()})
    if not found:
        raise UnreadableAnswerError("names no token")
    if all("id" in entry for entry in found):
        return Answer({int(entry["id"]): _number(entry["logprob"]) for entry in found}, {})
    return Answer({}, {str(entry["token"]): _number(entry["logprob"]) for entry in found})


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnreadableAnswerError(f"has {value!r} for a log-probability")
    if value > 1e-3:
        raise UnreadableAnswerError(f"has {value!r}, the logarithm of no probability")
    return min(0.0, float(value))
