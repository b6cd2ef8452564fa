"""What Prometheus is told: a registry of the monitor's own, without the process's and the interpreter's figures."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, generate_latest

if TYPE_CHECKING:
    from paretune.monitoring.watch import Outcome, Watch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the exposition format that :meth:`Metrics.text` writes."""


class Metrics:
    """Gauges of the last check, counters of all of them.

    A gauge of something that is not known is NaN, which Prometheus draws as a gap.

    Args:
        watch: whose checks are told.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._registry = CollectorRegistry()
        self._gauges = {
            "drift_nats": self._gauge("drift_nats", "Mean KL of the canaries to their references (nats)"),
            "largest_drift_nats": self._gauge("drift_largest_nats", "The same of the worst canary (nats)"),
            "latency_s": self._gauge("latency_seconds", "Median time to the answer of a canary (seconds)"),
            "memory_bytes": self._gauge("server_memory_bytes", "RAM of the server's process (bytes)"),
            "altered_files": self._gauge("altered_files", "Files of the rung that are not the manifest's"),
        }
        self._rung = self._gauge("rung", "Place on the ladder of the rung that is on, from 0")
        self._settling = self._gauge("settling", "1 while a switch waits for the server to be restarted")
        self._broken = Gauge(
            "paretune_broken_in_a_row", "Checks in a row above a limit", ["metric"], registry=self._registry
        )
        self._checks = Counter("paretune_checks", "Checks by outcome", ["outcome"], registry=self._registry)
        self._switches = Counter(
            "paretune_switches", "Switches by outcome", ["outcome"], registry=self._registry
        )
        for outcome in ("healthy", "broken", "unanswered"):
            self._checks.labels(outcome)
        self._told = {"made": 0, "failed": 0}
        self._lock = threading.Lock()
        self._member = Info("paretune_member", "The rung that is on", registry=self._registry)

    def add(self, outcome: Outcome) -> None:
        """Count a check and keep what it found."""
        for name, gauge in self._gauges.items():
            value = getattr(outcome.reading, name)
            gauge.set(float("nan") if value is None else value)
        self._checks.labels(outcome_name(outcome)).inc()

    def text(self) -> bytes:
        """The registry in Prometheus' text format."""
        # Two scrapes at once would both count a switch that neither has told.
        with self._lock:
            self._read_watch()
            return generate_latest(self._registry)

    def _read_watch(self) -> None:
        # Bound once: the thread that checks puts others in their place when it switches.
        watch, streaks, rung = self._watch, self._watch.streaks, self._watch.rung
        for limit in streaks.limits:
            self._broken.labels(limit.metric).set(streaks.count(limit))
        for name, now in (("made", watch.switches), ("failed", watch.failed_switches)):
            self._switches.labels(name).inc(now - self._told[name])
            self._told[name] = now
        self._rung.set(rung)
        self._settling.set(watch.settling)
        self._member.info({"name": watch.ladder.rungs[rung].name})

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"paretune_{name}", text, registry=self._registry)


def outcome_name(outcome: Outcome) -> str:
    """``unanswered``, ``broken`` or ``healthy``."""
    if outcome.reading.unanswered:
        return "unanswered"
    return "broken" if outcome.broken else "healthy"
