"""``paretune search MODEL``: the main job, from a model to a front, a report and an export that was loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def search(
    model: Annotated[
        str | None, typer.Argument(help="Model folder or hub id; the embedded model if left out.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run file (YAML or JSON); options override it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/MODEL if left out. Resumed if it fits.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine: torch-cpu, torch, transformers, vllm, llama.cpp, openvino or onnxruntime."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device name, or 'auto' for this machine. Default: auto.")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="Sequences, and tokens of each. Default: batch=1,prompt=128,output=128; "
            "embedded model: batch=1,prompt=64,output=64."
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="One text, split by document into the three below.")
    ] = None,
    calibration_text: Annotated[Path | None, typer.Option(help="Text for statistics.")] = None,
    search_text: Annotated[Path | None, typer.Option(help="Text that candidates are scored on.")] = None,
    report_text: Annotated[Path | None, typer.Option(help="Text that the front is reported on.")] = None,
    window_tokens: Annotated[
        int | None, typer.Option(min=16, help="Tokens of a window. Default: 256.")
    ] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="Folder of lm-eval tasks (YAML), offline; they are code, and run.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="lm-eval task name; repeat for more.")] = None,
    task_limit: Annotated[int | None, typer.Option(min=1, help="Items of each task (count).")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="E.g. 'memory<=6GiB', 'kl<=0.1', 'tpot<=20ms'; repeat for more.")
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="Metric to trade off; repeat. Default: kl and weight_bytes.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="paretune, additive, nsga2, nsga3, tpe, gp or random.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Bound on the search alone (minutes); preparing, judging and exporting come on top. "
            "Default: none; embedded model: 1.6.",
        ),
    ] = None,
    max_evaluations: Annotated[
        float | None, typer.Option(min=0.0, help="Bound on the search (units of 16,384 tokens).")
    ] = None,
    bits: Annotated[
        str | None, typer.Option(help="Widths of linears (bit). Default: 2,3,4,5,6,8,16.")
    ] = None,
    embedding_bits: Annotated[
        str | None, typer.Option(help="Widths of embedding and head (bit). Default: 4,6,8,16.")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(min=0, help="Weights that share a scale; 0: one scale a channel. Default: 128."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Quantizer: rtn, weighted, hqq, gptq, awq; repeat for more.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Format by name besides the widths: fp8-channel, nvfp4, w8a8-dynamic ...; repeat.",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="What layers that match a pattern may be, e.g. '*.down_proj:bits=4,8;methods=hqq'; keys bits, "
            "methods, sparsity, group_size; repeat for more, the last match wins."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
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
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> int:
    """Search per-layer bits, sparsity and pruned size; leave a Pareto front, a report and an export."""
    options: dict[str, Any] = {
        "model": model,
        "revision": revision,
        "engine": engine,
        "device": device,
        "workload": None if workload is None else _workload(workload),
        "texts": {
            "single": _text(text),
            "calibration": _text(calibration_text),
            "search": _text(search_text),
            "report": _text(report_text),
            "window_tokens": window_tokens,
        },
        "tasks": {"folder": None if tasks is None else str(tasks), "names": task, "limit": task_limit},
        "space": {
            "bits": _widths(bits),
            "embedding_bits": _widths(embedding_bits),
            "methods": method,
            "formats": formats,
            "rules": [_rule(text) for text in rule] if rule else None,
        },
        "search": {
            "limits": limit,
            "objectives": objective,
            "sampler": sampler,
            "minutes": minutes,
            "max_evaluations": max_evaluations,
            "seed": seed,
        },
        "export": export,
        "gguf": gguf,
    }
    if group_size is not None:
        options["space"]["group_size"] = group_size
    from paretune.pipeline.job import run_job
    from paretune.pipeline.output import Stages

    settings = _settings(run, options)
    folder = out or Path("runs") / _folder_name(settings.model)
    return run_job(settings, folder, Stages(quiet))


def _settings(path: Path | None, options: dict[str, Any]) -> Any:
    from paretune.pipeline.embedded import EMBEDDED_RUN
    from paretune.pipeline.models import EMBEDDED
    from paretune.pipeline.run_file import merge, read_run_file, validate_run

    given = {} if path is None else read_run_file(path)
    values = merge(given, options)
    values.setdefault("model", EMBEDDED)
    if values["model"] == EMBEDDED:
        values = merge(EMBEDDED_RUN, values)
    space = values.get("space", {})
    if space.get("group_size") == 0:
        values["space"] = {**space, "group_size": None}
    return validate_run(values, "the options" if path is None else str(path))


def _folder_name(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1] or "model"


def _text(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else {"path": str(path)}


def _workload(text: str) -> dict[str, Any]:
    from paretune.spaces.target import Workload

    return Workload.parse(text).model_dump()


def _widths(text: str | None) -> list[int] | None:
    from paretune.spaces.errors import RunError

    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RunError(
            f"widths {text!r}", "must be whole numbers separated by commas", "E.g. 2,3,4,8,16"
        ) from error


def _rule(text: str) -> dict[str, Any]:
    """``PATTERN:key=value,value;key=value`` as the mapping of a run file."""
    from paretune.spaces.errors import RunError
    from paretune.spaces.files import FileKind, parse_yaml

    kind = FileKind(
        "rule", RunError, "It reads PATTERN:key=value,value;key=value, e.g. '*.down_proj:bits=4,8'"
    )
    pattern, _, rest = text.rpartition(":")
    parts = [part.split("=", 1) for part in rest.split(";") if part.strip()]
    if not pattern or not parts or any(len(part) != 2 for part in parts):
        raise kind.refusal(text, "names no pattern, or a part is no key=value")
    found: dict[str, Any] = {"pattern": pattern}
    for key, values in parts:
        name = key.strip()
        found[name] = parse_yaml(values if name == "group_size" else f"[{values}]", text, kind)
    return found
