"""One check: every canary asked once, and what it says of drift, latency and memory."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.engines.canary import Canary
from paretune.monitoring.answers import Answer
from paretune.monitoring.drift import divergence
from paretune.monitoring.endpoint import Endpoint
from paretune.monitoring.errors import EndpointError, MonitorError
from paretune.monitoring.memory import resident_bytes

_BROKEN_TEXT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Reading:
    """What a check found; ``None`` where it is not known.

    Attributes:
        drift_nats: mean KL(reference || served) of the canaries, bounded from below; infinite where the server
            answered one of them with something that is no distribution.
        largest_drift_nats: of the worst canary.
        latency_s: median from request to answer.
        memory_bytes: of the server's process.
        unanswered: 1 where the endpoint could not be asked, else 0.
        altered_files: of the export, where they are watched.
        reason: why there is no drift, or why it is infinite; else empty.
        canaries: asked.
    """

    drift_nats: float | None = None
    largest_drift_nats: float | None = None
    latency_s: float | None = None
    memory_bytes: int | None = None
    unanswered: int = 0
    altered_files: int | None = None
    reason: str = ""
    canaries: int = 0

    def values(self) -> dict[str, float | None]:
        """By the names that limits have."""
        return {
            "drift_nats": self.drift_nats,
            "latency_s": self.latency_s,
            "memory_bytes": self.memory_bytes,
            "unanswered": self.unanswered,
            "altered_files": self.altered_files,
        }


def take_reading(endpoint: Endpoint, canaries: Sequence[Canary], pid: int | Path | None = None) -> Reading:
    """Ask every canary; nothing that an endpoint does raises.

    Args:
        endpoint: that is watched.
        canaries: of the export that it should serve; see :func:`usable`.
        pid: of the server's process, or a file that holds it, where memory is watched.
    """
    memory = None if pid is None else resident_bytes(pid)
    drifts, seconds, fault = [], [], ""
    try:
        endpoint.greet()
        for canary in canaries:
            found = endpoint.ask(canary)
            seconds.append(found.seconds)
            drifts.append(math.inf if found.answer is None else drift(canary, found.answer))
            fault = fault or found.fault
    except EndpointError as error:
        return Reading(memory_bytes=memory, unanswered=1, reason=f"{error.value} {error.rule}")
    return Reading(
        drift_nats=math.fsum(drifts) / len(drifts),
        largest_drift_nats=max(drifts),
        latency_s=statistics.median(seconds),
        memory_bytes=memory,
        reason=fault,
        canaries=len(drifts),
    )


def drift(canary: Canary, answer: Answer) -> float:
    """KL(reference || served) of one canary in nats, bounded from below."""
    if answer.by_id:
        return divergence(dict(zip(canary.top_ids, canary.log_probabilities, strict=True)), answer.by_id)
    # Tokens that share a text, or are no whole character, cannot be told apart by it: they go to the rest.
    counts = Counter(canary.top_tokens)
    reference = {
        text: value
        for text, value in zip(canary.top_tokens, canary.log_probabilities, strict=True)
        if counts[text] == 1 and _BROKEN_TEXT not in text
    }
    served = {text: value for text, value in answer.by_text.items() if _BROKEN_TEXT not in text}
    return divergence(reference, served) if reference and served else math.inf


def usable(canaries: Sequence[Canary], endpoint: Endpoint) -> tuple[Canary, ...]:
    """Those that can be asked of the endpoint.

    Raises:
        MonitorError: it takes text, and no canary has any that stands for its tokens.
    """
    found = tuple(c for c in canaries if endpoint.prompts == "ids" or c.text is not None)
    if not found:
        raise MonitorError(
            "the canaries of the export",
            "have no text that the tokenizer turns into exactly their tokens",
            "Ask an endpoint that takes token ids (--prompts ids)",
        )
    return found
