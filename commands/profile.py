"""``paretune profile MODEL``: operations and whole models timed here, predicted beside measured latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.engines.profiled_engine import ProfiledEngine
    from paretune.pipeline.output import Stages
    from paretune.profiles.table import CostTable
    from paretune.profiles.whole_model import WholeModel
    from paretune.spaces.measurement import Measurement
    from paretune.spaces.target import Device, Workload


def profile(
    model: Annotated[str, typer.Argument(help="Model folder, hub id, or 'embedded'.")] = "embedded",
    engine: Annotated[
        str, typer.Option(help="Engine whose kernels are timed: torch-cpu or torch.")
    ] = "torch-cpu",
    device: Annotated[
        str, typer.Option(help="Device of this machine that is timed: 'auto', 'cpu' or 'gpu'.")
    ] = "auto",
    workload: Annotated[
        str,
        typer.Option(help="batch=8,prompt=512,output=128 (sequences, tokens, tokens), or b8-p512-o128."),
    ] = "batch=1,prompt=64,output=64",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Time box of the operations (seconds); whole models come on top.")
    ] = 30.0,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each whole model runs (count).")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Cost table (JSON, seconds); costs-ENGINE.json if left out. Rows in it are kept."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON (seconds, joules) instead of tables.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> None:
    """Time operations and whole models here: predicted beside measured latency, and a table of costs."""
    from tempfile import TemporaryDirectory

    from paretune.engines import find_profiled_engine
    from paretune.pipeline.output import Stages
    from paretune.pipeline.workbench import local_device
    from paretune.spaces.target import Workload

    stages, asked, chosen = Stages(quiet), Workload.parse(workload), find_profiled_engine(engine)
    target = local_device(chosen, device)
    with TemporaryDirectory(prefix="paretune-profile-") as folder:
        with stages.stage("start", "loading the model"):
            assembler = open_model(model, revision, asked, Path(folder))
        bench = Bench(chosen, target, assembler, asked, stages)
        document = measure(bench, seconds, rounds, out or Path(f"costs-{engine}.json"))
    if json:
        _print_json(document)
    else:
        _print_tables(document)


@dataclass(frozen=True)
class Bench:
    """What is measured with."""

    engine: ProfiledEngine
    device: Device
    assembler: Assembler
    workload: Workload
    stages: Stages


def measure(bench: Bench, seconds: float, rounds: int, out: Path) -> dict[str, Any]:
    """Everything that the command prints; the table is saved on the way."""
    from paretune.profiles.predictor import Predictor

    table = _time_operations(bench, seconds, out)
    predictor = Predictor(bench.engine, table, bench.device)
    measured = _time_models(bench, rounds)
    runs = [each.run for each in measured.values()]
    predicted = predictor.held_out(bench.assembler.spec, runs)
    overheads = predictor.fit(bench.assembler.spec, runs)
    return {
        "model": bench.assembler.spec.source,
        "engine": f"{bench.engine.name} {bench.engine.version()}",
        "device": bench.device.model_dump(mode="json"),
        "workload": bench.workload.model_dump(mode="json"),
        "table": str(out),
        "operations": len(table.rows),
        "overhead": {metric: fitted.model_dump(mode="json") for metric, fitted in overheads.items()},
        "models": [
            _row(name, found, guess) for (name, found), guess in zip(measured.items(), predicted, strict=True)
        ],
    }


def _time_operations(bench: Bench, seconds: float, out: Path) -> CostTable:
    from paretune.profiles.coverage import space_operations
    from paretune.profiles.harness import distinct_operations, time_operations
    from paretune.profiles.table import CostTable
    from paretune.profiles.whole_model import profile_candidates
    from paretune.spaces.patterns import Restrictions
    from paretune.spaces.space import SearchSpace

    spec, engine = bench.assembler.spec, bench.engine
    legality = engine.legality(bench.device.name)
    known = CostTable.read(out) if out.exists() else CostTable()
    operations = [
        operation
        for config in profile_candidates(spec, legality).values()
        for operation in engine.operations(spec, config, bench.workload)
    ]
    space = SearchSpace(spec, legality, Restrictions(methods=("rtn",)), bench.assembler.bank.block_order)
    operations += space_operations(engine, space, bench.workload)
    with bench.stages.stage("operations", "timing operations"):
        timed = time_operations(
            engine,
            distinct_operations(operations),
            4 * spec.parameters,
            seconds,
            device=bench.device,
            progress=bench.stages.report,
        )
    known.joined(timed.rows).write(out)
    return timed


def _time_models(bench: Bench, rounds: int) -> dict[str, WholeModel]:
    from paretune.profiles.energy import EnergyMeter
    from paretune.profiles.whole_model import profile_candidates, time_models

    legality = bench.engine.legality(bench.device.name)
    with bench.stages.stage("models", "timing whole models"):
        return time_models(
            bench.engine,
            bench.assembler,
            profile_candidates(bench.assembler.spec, legality),
            bench.workload,
            rounds=rounds,
            meter=EnergyMeter(bench.device.kind),
            progress=bench.stages.report,
        )


def _row(name: str, found: WholeModel, predicted: dict[str, Measurement]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "energy_j_per_token": found.energy_j_per_token}
    for metric in ("ttft_s", "tpot_s"):
        measured = getattr(found.run, metric)
        row[metric] = measured
        row[f"{metric}_spread"] = getattr(found, metric.removesuffix("_s") + "_spread_s")
        row[f"{metric}_predicted"] = predicted[metric].value
        row[f"{metric}_error"] = predicted[metric].value / measured - 1
    row["by"] = predicted["tpot_s"].by
    return row


def open_model(model: str, revision: str | None, workload: Workload, place: Path) -> Assembler:
    """The model with a bank of its own in ``place``: what weights say does not change the time.

    Raises:
        ModelError: whatever is wrong with the model.
        ConfigurationError: the workload is longer than the model's context.
    """
    import hashlib

    import torch

    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank
    from paretune.compressors.loading import load_dense, model_hash
    from paretune.compressors.windows import TokenWindows
    from paretune.pipeline.models import model_folder
    from paretune.profiles.candidates import check_workload
    from paretune.spaces.architectures import read_model

    folder = model_folder(model, revision)
    spec = read_model(folder, source=model, revision=revision)
    check_workload(spec, workload)
    dense = load_dense(folder, spec)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(spec.vocabulary, (2, min(64, spec.context)), generator=generator)
    windows = TokenWindows(ids, "calibration", hashlib.sha256(ids.numpy().tobytes()).hexdigest())
    bank = Bank.open(place, folder, dense, spec, model_hash(folder), windows)
    return Assembler(dense, spec, bank)


def _print_json(document: dict[str, Any]) -> None:
    import json

    print(json.dumps(document, indent=2))


def _print_tables(document: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from paretune.spaces.numerals import quantity

    console = Console()
    if not console.is_terminal:
        console = Console(width=160, color_system=None)
    workload = document["workload"]
    console.print(
        f"{document['model']} on {document['device']['label']} with {document['engine']}: "
        f"batch {workload['batch']}, prompt {workload['prompt_tokens']} tokens, "
        f"output {workload['output_tokens']} tokens\n"
        f"{document['operations']} operations timed, table in {document['table']}",
        highlight=False,
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    table.add_column("candidate")
    for heading in (
        "each token, predicted",
        "measured",
        "error",
        "first token, predicted",
        "measured",
        "error",
    ):
        table.add_column(heading, justify="right")
    joules = any(row["energy_j_per_token"] is not None for row in document["models"])
    if joules:
        table.add_column("energy a token", justify="right")
    for row in document["models"]:
        cells = [row["name"]]
        for metric in ("tpot_s", "ttft_s"):
            cells += [
                quantity(row[f"{metric}_predicted"], "s"),
                f"{quantity(row[metric], 's')} ± {quantity(row[f'{metric}_spread'], 's')}",
                f"{100 * row[f'{metric}_error']:+.0f} %",
            ]
        table.add_row(*cells, *([_joules(row["energy_j_per_token"])] if joules else []))
    console.print()
    console.print(table)
    console.print()
    for line in _closing(document):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


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


def _joules(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} J"
