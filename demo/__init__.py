"""The embedded model: 3.7 M parameters, five capabilities, its texts and its tasks. Made by ``demo/train.py``."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

MODEL = _HERE / "model"
"""Hugging Face folder of the trained model and its tokenizer."""

TEXTS = _HERE / "text"
"""``calibration.txt``, ``search.txt``, ``report.txt``, ``benchmark.txt``: they share no document."""

TASKS = _HERE / "tasks"
"""lm-eval tasks, one a capability; they need no network."""

TASK_NAMES = ("demo_agreement", "demo_arithmetic", "demo_ordering", "demo_recall", "demo_retrieval")
