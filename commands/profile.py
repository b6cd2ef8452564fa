"""``paretune profile MODEL``: operations and whole models timed here, predicted beside measured latency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from paretune.commands import options as opt
from paretune.commands.printing import console, print_json, table


def profile(
    model: opt.Model = "embedded",
    engine: opt.Engine = "torch-cpu",
    device: opt.Device = "auto",
    workload: opt.Workload = "batch=1,prompt=64,output=64",
    seconds: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Time box of the operations (seconds); whole models come on top."
        ),
    ] = 30.0,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Times that each whole model runs (count).")
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Cost table (JSON, seconds); costs-ENGINE.json if left out. Rows in it are kept.",
        ),
    ] = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Time operations and whole models here: predicted beside measured latency, and a table of costs.

    The engine is torch-cpu or torch; the device is one of this machine: auto, cpu or gpu.
    """
    words = locals().copy()
    from paretune.pipeline.api import profile as measure

    as_json, words["progress"] = words.pop("json"), not words.pop("quiet")
    document = measure(**words)
    if as_json:
        print_json(document)
    else:
        _print_tables(document)


def _print_tables(document: dict[str, Any]) -> None:
    from paretune.spaces.numerals import quantity

    page, workload = console(160), document["workload"]
    page.print(
        f"{document['model']} on {document['device']['label']} with {document['engine']}: "
        f"batch {workload['batch']}, prompt {workload['prompt_tokens']} tokens, "
        f"output {workload['output_tokens']} tokens\n"
        f"{document['operations']} operations timed, table in {document['table']}"
    )
    joules = any(row["energy_j_per_token"] is not None for row in document["models"])
    headings = [f"{what}, predicted|measured|error" for what in ("each token", "first token")]
    shown = table("candidate", *"|".join(headings).split("|"), *(["energy per token"] if joules else []))
    for row in document["models"]:
        cells = [row["name"]]
        for metric in ("tpot_s", "ttft_s"):
            cells += [
                quantity(row[f"{metric}_predicted"], "s"),
                f"{quantity(row[metric], 's')} ± {quantity(row[f'{metric}_spread'], 's')}",
                f"{100 * row[f'{metric}_error']:+.0f} %",
            ]
        joule = row["energy_j_per_token"]
        shown.add_row(*cells, *(["" if joule is None else f"{joule:.3g} J"] if joules else []))
    page.print(shown)
    for line in _closing(document):
        page.print(line, soft_wrap=True)


def _closing(document: dict[str, Any]) -> list[str]:
    from paretune.spaces.numerals import quantity

    lines = [
        "Predicted: the sum of the timed operations and an overhead fitted to the other candidates; "
        "± is half the distance between the quartiles."
    ]
    for metric, what in (("tpot_s", "each token"), ("ttft_s", "the first token")):
        fitted = document["overhead"][metric]
        block, once = quantity(fitted["per_block_s"], "s"), quantity(fitted["constant_s"], "s")
        more = f"{100 * fitted['kernel_share']:.0f} % of the kernels"
        lines.append(f"Overhead of {what}: {block} a block, {once} once, {more}.")
    notes = sorted({note for row in document["models"] for note in row["by"].split("; ")[1:]})
    return lines + [f"Note: {note}." for note in notes]
