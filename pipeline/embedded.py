"""The run of the embedded model: what ``paretune`` without arguments searches, on two cores in five minutes."""

from __future__ import annotations

from typing import Any

from paretune import demo

EMBEDDED_RUN: dict[str, Any] = {
    "model": "embedded",
    "texts": {
        "calibration": {"path": str(demo.TEXTS / "calibration.txt"), "windows": 64},
        "search": {"path": str(demo.TEXTS / "search.txt"), "windows": 64},
        "report": {"path": str(demo.TEXTS / "report.txt"), "windows": 64},
        "window_tokens": 256,
    },
    "tasks": {"folder": str(demo.TASKS), "limit": 100},
    "workload": {"batch": 1, "prompt_tokens": 64, "output_tokens": 64},
    "search": {"minutes": 1.6},
    "gguf": True,
}
