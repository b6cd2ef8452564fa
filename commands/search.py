"""``paretune search MODEL``: the main job, from a model to a front, a report and an export that was loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.commands import options as opt


def search(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Model folder or hub id; the embedded model if left out."),
    ] = None,
    run_file: opt.RunFile = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder; runs/MODEL if left out. Resumed if it fits."),
    ] = None,
    revision: opt.Revision = None,
    engine: opt.Engine = None,
    device: opt.Device = None,
    workload: opt.Workload = None,
    text: opt.Text = None,
    calibration_text: opt.CalibrationText = None,
    search_text: opt.SearchText = None,
    report_text: opt.ReportText = None,
    windows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Windows drawn from each text (count); 0: all. Default: at most 128 to calibrate, 64 of the others.",
        ),
    ] = None,
    window_tokens: opt.WindowTokens = None,
    tasks: opt.Tasks = None,
    task_names: opt.Task = None,
    task_limit: opt.TaskLimit = None,
    limits: opt.Limit = None,
    objectives: opt.Objective = None,
    sampler: opt.Sampler = None,
    minutes: opt.Minutes = None,
    max_evaluations: opt.MaxEvaluations = None,
    bits: opt.Bits = None,
    embedding_bits: opt.EmbeddingBits = None,
    group_size: opt.GroupSize = None,
    methods: opt.Method = None,
    formats: opt.Format = None,
    rules: opt.Rule = None,
    seed: opt.Seed = None,
    export: Annotated[
        bool | None,
        typer.Option("--export/--no-export", help="Export the recommended configuration, load it again."),
    ] = None,
    gguf: Annotated[
        bool | None,
        typer.Option(
            "--gguf/--no-gguf",
            help="Write the export as GGUF too and ask llama.cpp a question; by default with the embedded model.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what the search would take (minutes, bytes), and what lowers it; then stop.",
        ),
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Search per-layer bits, sparsity and pruned size; leave a Pareto front, a report and an export."""
    words = locals().copy()
    from paretune.commands.printing import print_json
    from paretune.pipeline.api import plan_search, start_search
    from paretune.pipeline.run import Run

    as_json, words["progress"] = words.pop("json"), not words.pop("quiet")
    words |= {name: opt.widths_of(words[name]) for name in ("bits", "embedding_bits")}
    if words.pop("dry_run"):
        plan = plan_search(words)
        if as_json:
            print_json(plan.document())
        else:
            print(*plan.lines(), sep="\n")
        return 0
    done, folder = start_search(words)
    run = Run(folder)
    if as_json:
        print_json(run.document())
    else:
        print(run.summary())
    if done.failure is not None:
        raise done.failure
    return 130 if done.interrupted else 0
