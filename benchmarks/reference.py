"""The run on the reference model: ``python -m benchmarks.reference --shared DIR --out RUN``.

Writes the run file (texts disjoint by document; two documents of the held-out text are left for benchmarks that
decide) and runs ``paretune search`` in a process of its own. ``benchmarks.uniforms`` makes the table of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from paretune.spaces.patterns import Restrictions

ROOT = Path(__file__).resolve().parents[1]
CALIBRATION_DOCUMENTS = tuple(range(40))
SEARCH_DOCUMENTS = (2, 3, 5, 6, 9)
REPORT_DOCUMENTS = (0, 1, 7, 8, 11)
"""Documents 4 and 10 are for benchmarks that decide between methods."""


def main() -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--model", default="reference-48m", help="folder under models/")
    parser.add_argument("--engine", default="torch-cpu", help="a registered engine")
    parser.add_argument("--device", default="auto", help="what is legal there; this machine if left out")
    parser.add_argument("--minutes", type=float, default=20.0, help="bound on the search (minutes)")
    parser.add_argument("--window-tokens", type=int, default=512, help="tokens of a window")
    parser.add_argument("--report-windows", type=int, default=128, help="windows of the report text (count)")
    parser.add_argument("--candidate-tokens", type=int, default=4096, help="tokens a candidate is read on")
    parser.add_argument("--methods", nargs="*", default=list(Restrictions().methods), help="quantizers")
    parser.add_argument(
        "--latency", action=argparse.BooleanOptionalAction, default=True, help="measure the front's latency"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out.with_suffix(".run.json")
    file.write_text(json.dumps(run_file(arguments), indent=2) + "\n", encoding="utf-8")
    command = [sys.executable, "run_search.py", "search", "--run", str(file), "--out", str(arguments.out)]
    subprocess.run(command, cwd=ROOT, check=True)


def run_file(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings of the run; the texts' paths are absolute."""
    data = arguments.shared.resolve() / "data" / "text"
    held_out = {"path": str(data / "books-heldout.txt")}
    calibration = {
        "path": str(data / "books-train.txt.bz2"),
        "documents": CALIBRATION_DOCUMENTS,
        "windows": 64,
    }
    return {
        "model": str(arguments.shared.resolve() / "models" / arguments.model),
        "engine": arguments.engine,
        "device": arguments.device,
        "compute_dtype": "float32",
        "texts": {
            "window_tokens": arguments.window_tokens,
            "calibration": calibration,
            "search": {**held_out, "documents": SEARCH_DOCUMENTS, "windows": 64},
            "report": {**held_out, "documents": REPORT_DOCUMENTS, "windows": arguments.report_windows},
        },
        "measure_latency": arguments.latency,
        "space": {"methods": arguments.methods},
        "workload": {"batch": 1, "prompt_tokens": 128, "output_tokens": 128},
        "search": {
            "minutes": arguments.minutes,
            "baseline_tokens": arguments.candidate_tokens,
            "marginal_tokens": arguments.candidate_tokens // 2,
            "candidate_tokens": 4 * arguments.candidate_tokens,
        },
    }


if __name__ == "__main__":
    main()
