"""``paretune advise MODEL --device D --workload W``: what binds and what helps, without a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.commands import options as opt
from paretune.commands.printing import console as standard_output

if TYPE_CHECKING:
    from rich.console import Console

    from paretune.profiles.advice import Advice


def advise(
    model: opt.Model = "embedded",
    device: opt.Device = "auto",
    workload: opt.Workload = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
) -> None:
    """Say in seconds what binds (memory, bandwidth, arithmetic, launches) and what each format would give.

    Only config.json is read. The workload is batch=1,prompt=128,output=128 if left out.
    """
    from paretune.pipeline.api import advise as compute

    words = {} if workload is None else {"workload": workload}
    advice = compute(model, device=device or "auto", revision=revision, **words)
    if json:
        print(advice.model_dump_json(indent=2))
    else:
        show(advice)


def show(advice: Advice, console: Console | None = None) -> None:
    """Print the advice: tables on a terminal, aligned text elsewhere."""
    console = console or standard_output(160)
    workload, device = advice.workload, advice.device
    console.print(
        f"{advice.model}: {advice.architecture}, {advice.parameters / 1e6:,.1f} M parameters, "
        f"{advice.dtype}\n"
        f"{device.label} ({device.name}), batch {workload.batch}, prompt {workload.prompt_tokens} tokens, "
        f"output {workload.output_tokens} tokens"
        + (f", {workload.tensor_parallel} devices" if workload.tensor_parallel > 1 else ""),
        highlight=False,
        markup=False,
    )
    _paragraph(console, "What binds, as it is", advice.binding.statements)
    _formats(console, advice)
    _paragraph(
        console,
        "Can quantizing make it slower?",
        [f"{each.label}: {told}" for each in advice.formats for told in each.slower]
        or ["Not by these numbers: every format reads less and starts as many kernels."],
    )
    _paragraph(console, "What fits what binds", [verdict.statement for verdict in advice.verdicts])
    _paragraph(
        console,
        "What to try, each on top of the one before",
        [f"{i}. {step.statement}" for i, step in enumerate(advice.order, 1)]
        or ["Nothing: no step gains a tenth of the time of a batch, and the model fits."],
        bullet="",
    )
    _paragraph(console, "Read this with the numbers", advice.notes)


def _formats(console: Console, advice: Advice) -> None:
    from rich import box
    from rich.table import Table

    from paretune.spaces.numerals import quantity

    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, title_justify="left", pad_edge=False)
    table.add_column("format (floors of latency)")
    for heading in ("weights", "memory", "first token", "each token", "largest batch", "longest context"):
        table.add_column(heading, justify="right")
    for each in advice.formats:
        table.add_row(
            each.label,
            quantity(each.weight_bytes, "B"),
            quantity(each.memory_bytes, "B") + ("" if each.fits else " (does not fit)"),
            f"{quantity(each.ttft_s, 's')}{_change(each.ttft_s, advice.formats[0].ttft_s)}",
            f"{quantity(each.tpot_s, 's')}{_change(each.tpot_s, advice.formats[0].tpot_s)}",
            f"{each.largest_batch:,}" if each.largest_batch else "none",
            f"{each.largest_context:,}" if each.largest_context else "none",
        )
    console.print()
    console.print(table)


def _change(value: float, dense: float) -> str:
    return "" if value == dense else f" ({100 * (value / dense - 1):+.0f} %)"


def _paragraph(
    console: Console, title: str, statements: list[str] | tuple[str, ...], bullet: str = "- "
) -> None:
    console.print()
    console.print(title, style="bold", highlight=False, markup=False)
    for statement in statements:
        console.print(
            f"{bullet}{statement}", highlight=False, markup=False, soft_wrap=not console.is_terminal
        )
