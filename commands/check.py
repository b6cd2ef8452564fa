"""``paretune check CHECKPOINT --base MODEL``: whether a quantized model is worse than its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from paretune.spaces.measurement import Measurement


def check(
    checkpoint: Annotated[str, typer.Argument(help="Quantized (or any other) model folder.")],
    base: Annotated[str, typer.Option(help="Model that it was made from: folder, hub id, or 'embedded'.")],
    text: Annotated[
        Path | None, typer.Option(help="Text both are read on; the embedded model brings its own.")
    ] = None,
    windows: Annotated[int, typer.Option(min=2, help="Windows read (count).")] = 64,
    window_tokens: Annotated[int, typer.Option(min=16, help="Tokens of a window.")] = 256,
    tasks: Annotated[
        Path | None, typer.Option(help="Folder of lm-eval tasks; they are code, and run.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task name; repeat for more.")] = None,
    limit: Annotated[int | None, typer.Option(help="Items of each task (count).")] = None,
    max_kl: Annotated[float | None, typer.Option(help="Fail above this mean KL (nat).")] = None,
    max_kl_p99: Annotated[
        float | None, typer.Option(help="Fail above this 99th percentile of KL (nat).")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option(help="Fail below this top-1 agreement (fraction).")
    ] = None,
    p_value: Annotated[
        float, typer.Option(help="A task counts as worse below this p of a paired test (McNemar's, or t).")
    ] = 0.01,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Compare a checkpoint with its base; exit code 1 when it is worse than allowed, 0 otherwise."""
    from paretune.pipeline.models import EMBEDDED

    if base == EMBEDDED:
        from paretune import demo

        text, tasks = text or demo.TEXTS / "report.txt", tasks or demo.TASKS
    result = compare(
        checkpoint,
        base,
        text,
        windows=windows,
        window_tokens=window_tokens,
        tasks=tasks,
        names=task or [],
        limit=limit,
    )
    limits = {"kl": max_kl, "kl_p99": max_kl_p99, "top1_agreement": min_top1}
    result["failures"] = failures(result, limits, p_value)
    _print(result, json)
    return 1 if result["failures"] else 0


def compare(
    checkpoint: str,
    base: str,
    text: Path | None,
    *,
    windows: int,
    window_tokens: int,
    tasks: Path | None,
    names: list[str],
    limit: int | None,
) -> dict[str, Any]:
    """Quality of the checkpoint against its base, and the paired task tests.

    Raises:
        TextError: no text, or one shorter than a window.
        ModelError: tokenizers that do not match.
    """
    from paretune.compressors.divergence import Teacher
    from paretune.compressors.loading import load_checkpoint, load_tokenizer, require_same_tokenizer
    from paretune.compressors.windows import read_windows
    from paretune.pipeline.models import model_folder
    from paretune.spaces.errors import TextError

    base_folder, folder = model_folder(base), model_folder(checkpoint)
    if text is None:
        raise TextError("no text", "both models are read on one text", "Give --text FILE")
    require_same_tokenizer(base_folder, folder)
    tokenizer = load_tokenizer(base_folder)
    scorer = None
    if tasks is not None or names:
        from paretune.evaluators.tasks import TaskScorer, TaskSettings

        scorer = TaskScorer(tokenizer, TaskSettings(tuple(names), tasks, limit))
    read = read_windows(tokenizer, text, text="check", window_tokens=window_tokens, count=windows)
    dense = load_checkpoint(base_folder)
    teacher = Teacher(dense, read)
    candidate = load_checkpoint(folder)
    found = teacher.compare(candidate).measurements()
    result: dict[str, Any] = {
        "base": base,
        "checkpoint": checkpoint,
        "windows": windows,
        **{name: measured.value for name, measured in found.items()},
        "kl_stderr": found["kl"].stderr,
        "clustered_by": found["kl"].clustered_by,
    }
    result["perplexity_base"] = float(teacher.loss.mean().exp())
    if scorer is not None:
        result["tasks"] = paired_tasks(scorer.score(dense), scorer.score(candidate))
    return result


def paired_tasks(
    base: dict[str, Measurement], candidate: dict[str, Measurement]
) -> dict[str, dict[str, Any]]:
    """Scores side by side with the paired test of each task: McNemar's where items are right or wrong."""
    from paretune.spaces.statistics import compare_items

    rows: dict[str, dict[str, Any]] = {}
    for name, before in base.items():
        test = compare_items(candidate[name], before)
        rows[name] = {
            "base": before.value,
            "checkpoint": candidate[name].value,
            "items": test.difference.n,
            "difference": test.difference.value,
            "difference_stderr": test.difference.stderr,
            "metric": before.by,
            "test": test.test,
            "only_base_right": test.only_second,
            "only_checkpoint_right": test.only_first,
            "p_value": test.p_value,
        }
    return rows


def failures(result: dict[str, Any], limits: dict[str, float | None], p_value: float) -> list[str]:
    """What is worse than allowed, in words; empty when all is well."""
    found = []
    for metric, bound in limits.items():
        value = result[metric]
        if bound is not None and (value < bound if metric == "top1_agreement" else value > bound):
            found.append(f"{metric} is {value:.4g}, the limit is {bound:g}")
    for name, row in result.get("tasks", {}).items():
        if row["p_value"] < p_value and row["difference"] < 0:
            found.append(
                f"{name} fell from {row['base']:.3f} to {row['checkpoint']:.3f} "
                f"({row['test']}, p = {row['p_value']:.1g})"
            )
    return found


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(result, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"KL(base || checkpoint) {result['kl']:.5f} +- {result['kl_stderr']:.5f} nat a token "
        f"(clustered by {result['clustered_by']}), "
        f"p99 {result['kl_p99']:.4f}; same top token {result['top1_agreement']:.2%}; "
        f"perplexity {result['perplexity_base']:.3f} -> {result['perplexity']:.3f}",
        highlight=False,
    )
    if result.get("tasks"):
        table = Table("task", "base", "checkpoint", "items", "lost : won", "p", "paired test")
        for name, row in result["tasks"].items():
            lost, won = row["only_base_right"], row["only_checkpoint_right"]
            table.add_row(
                name, f"{row['base']:.3f}", f"{row['checkpoint']:.3f}", f"{row['items']}",
                "" if lost is None else f"{lost} : {won}", f"{row['p_value']:.3g}", row["test"],
            )  # fmt: skip
        console.print(table)
    for failure in result["failures"]:
        console.print(f"FAILED: {failure}", style="bold red", highlight=False)
    if not result["failures"]:
        console.print("passed: not worse than allowed", style="green")
