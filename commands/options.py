"""The words of the command line: one option means one thing, in whichever command it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from paretune.spaces.errors import RunError

_DURATION = re.compile(r"\s*([0-9.]+)\s*(ms|s|min|h)\s*")
_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def seconds_of(option: str, text: str) -> float:
    """``500ms``, ``60s``, ``5min`` or ``1h`` in seconds.

    Raises:
        RunError: it reads otherwise.
    """
    match = _DURATION.fullmatch(text)
    try:
        return float(match[1]) * _SECONDS[match[2]] if match else float("nan") / 0
    except (ValueError, ZeroDivisionError) as error:
        raise RunError(
            f"{option} {text}", "must be a number with a unit", "E.g. 500ms, 60s, 5min or 1h"
        ) from error


def widths_of(text: str | None) -> list[int] | None:
    """``2,3,4`` as widths in bits.

    Raises:
        RunError: it reads otherwise.
    """
    try:
        return None if text is None else [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RunError(
            f"widths {text!r}", "must be whole numbers separated by commas", "E.g. 2,3,4,8,16"
        ) from error


def _engines(incomplete: str) -> list[str]:
    from paretune.engines import engine_names

    return [name for name in engine_names() if name.startswith(incomplete)]


def _devices(incomplete: str) -> list[str]:
    from paretune.profiles.devices import device_names

    return [name for name in ("auto", *device_names()) if name.startswith(incomplete)]


def _metrics(incomplete: str) -> list[str]:
    from paretune.spaces.metrics import ALIASES, METRICS

    return [name for name in (*METRICS, *ALIASES) if name.startswith(incomplete)]


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model folder, hub id (OWNER/NAME) or 'embedded'.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that `paretune search` wrote.")]
ExportFolder = Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder of an export.")]
Revision = Annotated[
    str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a hub id.", show_default=False)
]
RunFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Run file (YAML or JSON); options override it.")
]
Run = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Run folder that an export comes from; the one it lies in if left out."),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=_engines,
        help="Engine: torch-cpu, torch, transformers, vllm, llama.cpp, openvino or onnxruntime.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=_devices,
        help="Device, e.g. h100, l4, x86-amx, or 'auto' for this machine. Default: auto.",
    ),
]
Workload = Annotated[
    str | None,
    typer.Option(
        metavar="batch=N,prompt=N,output=N",
        help="How many sequences, and tokens of each; also tensor_parallel=N (devices). Default: "
        "batch=1,prompt=128,output=128; embedded model: batch=1,prompt=64,output=64.",
    ),
]
Text = Annotated[
    Path | None, typer.Option(metavar="FILE", help="One text, split by document into the three below.")
]
CalibrationText = Annotated[Path | None, typer.Option(metavar="FILE", help="Text for statistics.")]
SearchText = Annotated[Path | None, typer.Option(metavar="FILE", help="Text that candidates are scored on.")]
ReportText = Annotated[Path | None, typer.Option(metavar="FILE", help="Text that the front is reported on.")]
WindowTokens = Annotated[
    int | None, typer.Option(metavar="N", min=16, help="Tokens of a window. Default: 256.")
]
Tasks = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of lm-eval tasks (YAML), offline. A task may run Python of its own: use folders that you trust.",
    ),
]
Task = Annotated[
    list[str] | None, typer.Option("--task", metavar="NAME", help="lm-eval task; repeat for more.")
]
TaskLimit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Items of each task (count).")]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="METRIC<=NUMBER[UNIT]",
        autocompletion=_metrics,
        help="Bound, e.g. 'memory<=6GiB' (B, MB, GiB), 'kl<=0.1' (nat), 'tpot<=20ms' (s, ms), 'task.NAME>=0.6' (score);"
        " repeat for more.",
    ),
]
Objective = Annotated[
    list[str] | None,
    typer.Option(
        "--objective", metavar="METRIC", autocompletion=_metrics,
        help="Metric to trade off, quality first; repeat. Default: kl and weight_bytes.",
    ),
]  # fmt: skip
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="paretune, additive, annealing, greedy, lp, nsga2, nsga3, tpe, gp or random."
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES", min=0.0,
        help="Bound on the search alone (minutes); preparing, judging and exporting come on top. "
        "Default: 30 where nothing else bounds the search; embedded model: 1.6.",
    ),
]  # fmt: skip
MaxEvaluations = Annotated[
    float | None, typer.Option(metavar="N", min=0.0, help="Bound on the search (units of 16,384 tokens).")
]
Bits = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Widths of linears (bit). Default: 2,3,4,5,6,8,16.")
]
EmbeddingBits = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Widths of embedding and head (bit). Default: 4,6,8,16.")
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="Weights that share a scale; 0: one scale per channel. Default: 128."
    ),
]
Method = Annotated[
    list[str] | None,
    typer.Option(
        "--method", metavar="NAME", help="Quantizer: rtn, weighted, hqq, gptq, awq; repeat for more."
    ),
]
Format = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Format of numbers by name besides the widths: fp8-channel, nvfp4, w8a8-dynamic ...; repeat for more.",
    ),
]
Rule = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="PATTERN:KEY=VALUE;...",
        help="What layers that match a pattern may be, e.g. '*.down_proj:bits=4,8;methods=hqq'; keys bits, "
        "methods, sparsity, group_size; repeat for more, the last match wins.",
    ),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed of everything random.")]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Member of the front; the recommended one if left out.")
]
Container = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Container that transformers loads: compressed-tensors (the usual one), bitsandbytes, gptq or awq.",
    ),
]
Windows = Annotated[int, typer.Option(metavar="N", min=2, help="Windows that are read (count).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (bytes, seconds, joules, nats).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")]

WORDS: dict[str, Any] = {
    "run_file": RunFile,
    "out": Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder; runs/MODEL if left out. Resumed if it fits."),
    ],
    "revision": Revision, "engine": Engine, "device": Device, "workload": Workload, "text": Text,
    "calibration_text": CalibrationText, "search_text": SearchText, "report_text": ReportText,
    "windows": Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Windows drawn from each text (count); 0: all. Default: at most 128 to calibrate, 64 of the others.",
        ),
    ],
    "window_tokens": WindowTokens, "tasks": Tasks, "task_names": Task, "task_limit": TaskLimit, "limits": Limit,
    "objectives": Objective, "sampler": Sampler, "minutes": Minutes, "max_evaluations": MaxEvaluations,
    "bits": Bits, "embedding_bits": EmbeddingBits, "group_size": GroupSize, "methods": Method, "formats": Format,
    "rules": Rule, "seed": Seed,
    "export": Annotated[
        bool | None,
        typer.Option("--export/--no-export", help="Export the recommended configuration, load it again."),
    ],
    "gguf": Annotated[
        bool | None,
        typer.Option(
            "--gguf/--no-gguf",
            help="Write the export as GGUF too and ask llama.cpp a question; by default with the embedded model.",
        ),
    ],
}  # fmt: skip
"""The option of every word of a search, see :mod:`paretune.pipeline.words`."""


def read_words(words: dict[str, Any]) -> Any:
    """Words as Python has them: lists of widths.

    Raises:
        RunError: widths that are no numbers.
    """
    return words | {name: widths_of(words[name]) for name in ("bits", "embedding_bits") if name in words}
