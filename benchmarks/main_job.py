"""The figures of the main job: ``python -m benchmarks.main_job [RUN]`` writes ``results/main_job.csv``.

Runs the main job on the embedded model in a process of its own, then times what the job's total cannot show:
swapping against scoring, bookkeeping at 224 groups, the start of the command line, memory of the bank build.
Needs a quiet machine of two cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bookkeeping import measure_bookkeeping
from benchmarks.tables import machine, write_table

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("quantity", "value", "limit", "unit", "machine")
STAGES = {
    "start": ("start",),
    "bank": ("bank",),
    "profile": ("profile",),
    "search": ("search", "judging"),
    "tasks": ("tasks", "latency"),
    "export": ("export", "report"),
}
LIMITS = {"start": 25.0, "bank": 10.0, "profile": 40.0, "search": 130.0, "tasks": 60.0, "export": 30.0}


def main() -> None:
    """Run everything and write the table; the run folder is kept where the only argument says."""
    rows: list[tuple[str, float, float | None, str]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[1]) if sys.argv[1:] else Path(place) / "run"
        rows += main_job(folder)
        rows += swap_share(folder)
    rows += start_of_the_command_line()
    rows += measure_bookkeeping()
    rows += bank_memory()
    here = machine()
    write_table(
        "main_job",
        COLUMNS,
        [
            {"quantity": quantity, "value": f"{value:.6g}", "limit": limit, "unit": unit, "machine": here}
            for quantity, value, limit, unit in rows
        ],
        (
            "bank_peak_beyond_checkpoint: after the passes over the text, with an allocator that gives freed memory"
            " back at once",
        ),
    )


def main_job(folder: Path) -> Iterator[tuple[str, float, float | None, str]]:
    """Seconds of the job and its stages, and what was scored."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "run_search.py", "search", "--out", str(folder), "--quiet"], cwd=ROOT, check=True
    )
    yield "main_job_total", time.perf_counter() - start, 300.0, "s"
    document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name, stages in STAGES.items():
        yield f"main_job_{name}", sum(document["spent"].get(s, 0.0) for s in stages), LIMITS[name], "s"
    records = [
        json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    yield from _counts(records, json.loads((folder / "front.json").read_text(encoding="utf-8")))
    errors = [abs(check["predicted_s"] / check["measured_s"] - 1) for check in document["latency_checks"]]
    yield "latency_checks", len(errors), 8, "candidates"
    yield "latency_error_median", statistics.median(errors), None, "fraction"
    yield "latency_error_worst", max(errors), None, "fraction"
    yield (
        "export_kl_to_candidate",
        document["export"]["kl_to_candidate"],
        document["export"]["tolerance"],
        "nat",
    )


def _counts(
    records: list[dict[str, Any]], front: dict[str, Any]
) -> Iterator[tuple[str, float, float | None, str]]:
    others = {"baseline", "marginal", "promotion"}
    scored = {
        r["digest"] for r in records if r["sampler"] not in others and r["fidelity"]["text"] == "search"
    }
    yield "candidates_besides_marginals_and_uniforms", len(scored), 150, "candidates"
    members = [member for member in front["members"] if member["on_front"]]
    yield "front_members", len(members), 12, "members"
    report = {r["digest"]: r["fidelity"] for r in records if r["fidelity"]["text"] == "report"}
    tokens = [report[m["digest"]]["windows"] * report[m["digest"]]["window_tokens"] for m in members]
    yield "report_tokens_of_a_member", min(tokens), 16384, "tokens"
    items = [v["n"] for m in members for k, v in m["measurements"].items() if k.startswith("task.")]
    yield "items_a_capability", min(items, default=0), 100, "items"


def swap_share(folder: Path) -> Iterator[tuple[str, float, float | None, str]]:
    """Swapping a random candidate in, as a share of scoring it on 2,048 tokens."""
    import numpy as np

    from paretune.pipeline.progress import Stages
    from paretune.pipeline.run_file import EMBEDDED_RUN, validate_run
    from paretune.pipeline.workbench import open_workbench

    bench = open_workbench(validate_run(EMBEDDED_RUN, "the embedded run"), folder, Stages(False))
    random, teacher = np.random.default_rng(0), bench.quality._teachers["search"]
    windows = 2048 // bench.run.texts.window_tokens
    configs = [bench.space.decode(_plain(bench.space, random)) for _ in range(24)]
    for config in configs:
        bench.assembler.apply(config)
    swaps, scores = [], []
    for config in configs:
        start = time.perf_counter()
        model = bench.assembler.apply(config)
        middle = time.perf_counter()
        teacher.compare(model, windows=windows)
        swaps.append(middle - start)
        scores.append(time.perf_counter() - middle)
    yield "swap_share_of_scoring", statistics.median(swaps) / statistics.median(scores), 0.03, "fraction"


def _plain(space: Any, random: Any) -> tuple[int, ...]:
    """Random widths and methods of the whole model, nothing pruned: what dense copies are kept of."""
    point = list(space.random(random))
    for index, parameter in enumerate(space.parameters):
        if parameter.group is None:
            point[index] = 0
        elif parameter.choices[point[index]].sparsity is not None:
            point[index] = int(
                random.choice([k for k, c in enumerate(parameter.choices) if c.sparsity is None])
            )
    return tuple(point)


def start_of_the_command_line() -> Iterator[tuple[str, float, float | None, str]]:
    """Seconds of ``paretune --help``, median of nine."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        subprocess.run([sys.executable, "run_search.py", "--help"], cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    yield "help", statistics.median(times), 0.5, "s"


_BANK_PROGRAM = """
import ctypes, gc, resource, sys, tempfile
from pathlib import Path
from paretune import demo
from paretune.pipeline.run_file import EMBEDDED_RUN
from paretune.pipeline.run_file import validate_run
from paretune.pipeline.texts import read_texts
from paretune.compressors.bank import Bank, offered_entries
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.engines import find_engine
from paretune.profiles.devices import detect_device
from paretune.spaces.architectures import read_model
from paretune.spaces.space import SearchSpace

run = validate_run(EMBEDDED_RUN, "the embedded run")
spec = read_model(demo.MODEL)
model = load_dense(demo.MODEL, spec)
windows = read_texts(run.texts, load_tokenizer(demo.MODEL), spec, 0)
with tempfile.TemporaryDirectory() as place:
    bank = Bank.open(Path(place) / "bank", demo.MODEL, model, spec, model_hash(demo.MODEL), windows["calibration"])
    space = SearchSpace(spec, find_engine("torch-cpu").legality(detect_device("cpu").name), run.space, bank.block_order)
    planned = [e for e in offered_entries(spec, space) if e.pruned.whole and not e.choice.sparsity]
    other = Bank.open(Path(place) / "other", demo.MODEL, model, spec, model_hash(demo.MODEL), windows["calibration"])
    # Libraries load their code at the first call; that is not the bank's.
    other.correlate()
    bank.observations.correlate()  # passes over the text take what their tokens take, whatever the model
    for entry in {entry.choice.method: entry for entry in planned}.values():
        other._make([entry])
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    status = lambda key: int(next(l for l in open("/proc/self/status") if l.startswith(key)).split()[1]) * 1024
    before = status("VmRSS")
    bank.build(space, None)
    print(status("VmHWM") - before, sum(x.weights for x in spec.block_linears) // spec.blocks * 4)
"""


_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""glibc would keep freed buffers, three times of what the build ever holds; so it gives them back at once."""


def bank_memory() -> Iterator[tuple[str, float, float | None, str]]:
    """Peak memory of the bank build beyond what stood before, beside two blocks in float32 (Linux only)."""
    done = subprocess.run(
        [sys.executable, "-c", _BANK_PROGRAM],
        cwd=ROOT, check=True, capture_output=True, text=True, env={**os.environ, **_GIVE_BACK},
    )  # fmt: skip
    peak, block = (int(part) for part in done.stdout.split()[-2:])
    yield "bank_peak_beyond_checkpoint", peak, 2 * block, "B"


if __name__ == "__main__":
    main()
