"""The embedded model: 3.7 M parameters, five capabilities, its texts and its tasks."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

MODEL: Path = _HERE / "model"
"""Hugging Face folder of the trained model and its tokenizer."""

TEXTS: Path = _HERE / "text"
"""``calibration.txt``, ``search.txt``, ``report.txt``, ``benchmark.txt``: they share no document."""

TASKS: Path = _HERE / "tasks"
"""lm-eval tasks, one a capability; they need no network."""

TASK_NAMES: tuple[str, ...] = (
    "demo_agreement",
    "demo_arithmetic",
    "demo_ordering",
    "demo_recall",
    "demo_retrieval",
)
