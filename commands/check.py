"""``paretune check CHECKPOINT --base MODEL``: whether a quantized model is worse than its base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paretune.commands import options as opt
from paretune.commands.printing import console, print_json, table
from paretune.spaces.numerals import with_error

if TYPE_CHECKING:
    from paretune.pipeline.checking import Checked


def check(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Quantized (or any other) model folder or hub id.")
    ],
    base: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Model that it was made from: folder, hub id, or 'embedded'."),
    ],
    text: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Text both are read on; the embedded model brings its own."),
    ] = None,
    windows: opt.Windows = 64,
    window_tokens: opt.WindowTokens = 256,
    tasks: opt.Tasks = None,
    task_names: opt.Task = None,
    task_limit: opt.TaskLimit = None,
    limits: opt.Limit = None,
    p_value: Annotated[
        float,
        typer.Option(
            metavar="P",
            min=0.0,
            max=1.0,
            help="A task counts as worse below this p of a paired test (McNemar's, or t).",
        ),
    ] = 0.01,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Compare a checkpoint with its base; exit code 1 when it is worse than allowed, 0 otherwise.

    Limits are on kl, kl_p99 (nat), top1_agreement (fraction) and perplexity: --limit 'kl<=0.05'.
    """
    from paretune.pipeline.api import check as compare_models

    found = compare_models(
        checkpoint, base=base, text=text, windows=windows, window_tokens=window_tokens or 256, tasks=tasks,
        task_names=task_names or (), task_limit=task_limit, limits=limits or (), p_value=p_value, progress=not quiet,
    )  # fmt: skip
    if json:
        print_json(found.document())
    else:
        _print(found)
    return 0 if found.passed else 1


def _print(found: Checked) -> None:
    result, page = found.figures, console()
    page.print(
        f"KL(base || checkpoint) {with_error(result['kl'], result['kl_stderr'])} nat per token "
        f"(clustered by {result['clustered_by']}), "
        f"p99 {result['kl_p99']:.4f}; same top token {result['top1_agreement']:.2%}; "
        f"perplexity {result['perplexity_base']:.3f} -> {result['perplexity']:.3f}"
    )
    if result.get("tasks"):
        shown = table("task", "base", "checkpoint", "items", "lost : won", "p", "paired test")
        for name, row in result["tasks"].items():
            lost, won = row["only_base_right"], row["only_checkpoint_right"]
            shown.add_row(
                name, f"{row['base']:.3f}", f"{row['checkpoint']:.3f}", f"{row['items']}",
                "" if lost is None else f"{lost} : {won}", f"{row['p_value']:.3g}", row["test"],
            )  # fmt: skip
        page.print(shown)
    for failure in found.failures:
        page.print(f"FAILED: {failure}", style="bold red")
    if not found.judged:
        page.print("nothing is judged: give a limit or tasks")
    elif found.passed:
        page.print("passed: not worse than allowed", style="green")
