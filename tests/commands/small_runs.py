"""Runs of a tiny model, by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def paretune(*arguments, folder=None, timeout=300):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, str(ROOT / "run_search.py"), *map(str, arguments)],
        cwd=folder or ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


RULE = ("--rule", "*.down_proj:bits=4,16;sparsity=0")


def small_arguments(model, text, out, *more):
    words = (
        "search", model, "--text", text, "--out", out, "--window-tokens", 32, "--bits", "2,4,8,16",
        "--embedding-bits", "16", "--group-size", 32, "--minutes", 0.05,
        "--workload", "batch=1,prompt=16,output=8", *more,
    )  # fmt: skip
    return [*map(str, words)]


def small_run(model, text, out, *more):
    return paretune(*small_arguments(model, text, out, *more))


def failing(error, rule):
    def fail(*given, **more):
        raise error("the file", rule, "Look at it")

    return fail
