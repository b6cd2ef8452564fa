"""Whether engines load what they are given and run what was searched: ``python -m benchmarks.engines --engine NAME``.

Writes ``engines.csv``: random legal configurations, every legal format in at least one, exported, loaded by the engine
and compared with the candidate (and that with the dense model) on text that decides nothing; and ``illegal.csv``:
configurations of the embedded model that differ from a legal one in one thing, which must be refused before anything
is written. Rows of other engines, devices, models and configurations stay. Methods are round-to-nearest and what a
format brings along: this is about containers and kernels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.compressors import Source, sources
from benchmarks.random_configs import Named, random_illegal, random_legal
from benchmarks.tables import beside, write_table
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.engines import engine_names, find_engine
from paretune.engines.engine import Engine, ExportCard
from paretune.engines.predictions import Predictions
from paretune.engines.verification import compare_predictions
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import ParetuneError

COLUMNS = (
    "engine", "engine_version", "model", "config", "formats", "loaded", "kl_to_candidate", "kl_of_candidate", "device",
)  # fmt: skip
ILLEGAL_MODEL = "embedded"
"""The only one whose refusals are recorded: the table's rows do not name a model."""
ILLEGAL_COLUMNS = ("engine", "config", "refused", "reason")
WINDOWS, TOKENS = 4, 128
CALIBRATION_WINDOWS = 16
AT_ONCE = 10
"""Exports that lie on the disk and are handed to the engine together."""


@dataclass(frozen=True)
class Bench:
    """A model, its bank, and the windows that are read."""

    source: Source
    assembler: Assembler
    teacher: Teacher
    ids: torch.Tensor


def main() -> None:
    """Measure the engines that are asked for; rows of others stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", nargs="*", default=list(engine_names()), help="names; all if left out")
    parser.add_argument(
        "--device", help="what is legal there; the engine must run on it; found out if left out"
    )
    parser.add_argument("--model", default="embedded", help="embedded, reference-48m or reference-moe")
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/, for reference models")
    parser.add_argument("--count", type=int, default=20, help="configurations of each kind")
    parser.add_argument("--only", nargs=2, type=int, metavar=("FIRST", "END"), help="some of them by number")
    parser.add_argument("--compute", default="cpu", help="where candidates are assembled")
    parser.add_argument(
        "--no-illegal", action="store_true", help="leave illegal.csv as it is; other models always do"
    )
    arguments = parser.parse_args()
    for name in arguments.engine if arguments.device else ():
        require_here(find_engine(name), arguments.device)
    with tempfile.TemporaryDirectory() as place:
        bench = open_bench(arguments.model, arguments.shared, Path(place), arguments.compute)
        for name in arguments.engine:
            engine = find_engine(name)
            device = arguments.device or engine.here()
            if arguments.model == ILLEGAL_MODEL and not arguments.no_illegal:
                # An export for vLLM is refused where no generation of devices takes it: the widest is asked.
                widest = "h100" if name == "vllm" else engine.here()
                record_illegal(bench, engine, widest, arguments.count, Path(place))
            configs = random_legal(engine, device, bench.assembler.spec, arguments.count)
            first, end = arguments.only or (0, len(configs))
            record(bench, engine, device, configs[first:end], Path(place))


def require_here(engine: Engine, device: str) -> None:
    """Refuse a device that the engine does not run on: rows say that it did."""
    if (here := engine.here()) != device:
        raise SystemExit(
            f"--device {device}: rows name the device that {engine.name} runs on, here {here}. "
            f"Leave --device out, or run this on {device}"
        )


def open_bench(model: str, shared: Path | None, place: Path, compute: str = "cpu") -> Bench:
    """The model with a bank in ``place``."""
    source = next(x for x in sources(shared) if x.name == model)
    spec, tokenizer = read_model(source.folder), load_tokenizer(source.folder)

    def windows(text: tuple[Path, tuple[int, ...] | None], role: str, count: int) -> TokenWindows:
        path, documents = text
        return read_windows(
            tokenizer, path, role, window_tokens=TOKENS, count=count, seed=0, documents=documents
        )

    dense = load_dense(source.folder, spec, device=compute)
    calibration = windows(source.calibration, "calibration", CALIBRATION_WINDOWS)
    bank = Bank.open(place / "bank", source.folder, dense, spec, model_hash(source.folder), calibration)
    read = windows(source.text, "benchmark", WINDOWS)
    teacher = Teacher(dense, read)
    return Bench(source, Assembler(dense, spec, bank), teacher, read.ids)


def record(bench: Bench, engine: Engine, device: str, configs: Sequence[Named], place: Path) -> None:
    """Rows of ``engines.csv``, written as they come."""
    rows: list[dict[str, object]] = []
    for start in range(0, len(configs), AT_ONCE):
        cases = [(bench, named) for named in configs[start : start + AT_ONCE]]
        rows += measured(cases, engine, device, place)
        write_rows(rows)


def measured(
    cases: Sequence[tuple[Bench, Named]], engine: Engine, device: str, place: Path
) -> Iterator[dict[str, object]]:
    """A row a case: a configuration of a model, exported, loaded, compared; all models read the same windows."""
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        folders = [Path(scratch) / f"{bench.source.name}-{named.name}" for bench, named in cases]
        for (bench, named), folder in zip(cases, folders, strict=True):
            engine.export(bench.assembler, named.config, folder, ExportCard(bench.source.folder, named.name))
        found = engine.many_predictions(folders, cases[0][0].ids)
    for (bench, named), answer in zip(cases, found, strict=True):
        row = {
            "engine": engine.name, "engine_version": engine.version(), "model": bench.source.name,
            "config": named.name, "formats": " ".join(named.formats), "device": device,
            "loaded": "true" if isinstance(answer, Predictions) else "false",
        }  # fmt: skip
        model = bench.assembler.apply(engine.executed_config(bench.assembler.spec, named.config, device))
        if isinstance(answer, Predictions):
            row["kl_to_candidate"] = f"{compare_predictions(model, answer, bench.ids).kl:.3g}"
        else:
            print(f"{engine.name} {bench.source.name} {named.name}: {answer}", flush=True)
        row["kl_of_candidate"] = f"{bench.teacher.compare(model).kl.mean():.4g}"
        print(row, flush=True)
        yield row


def record_illegal(bench: Bench, engine: Engine, device: str, count: int, place: Path) -> None:
    """Rows of ``illegal.csv``: refused is what neither wrote nor left anything."""
    spec, rows = bench.assembler.spec, []
    for named in random_illegal(engine, device, spec, count):
        folder = place / f"{engine.name}-{named.name}"
        refused, reason = "false", ""
        try:
            engine.export(bench.assembler, named.config, folder, ExportCard(bench.source.folder, named.name))
        except ParetuneError as error:
            refused = "false" if folder.exists() else "true"
            reason = f"{error.value} {error.rule}"
        rows.append({"engine": engine.name, "config": named.name, "refused": refused, "reason": reason})
    key = ("engine", "config")
    found = sorted(beside("illegal", rows, key), key=lambda row: [str(row[column]) for column in key])
    note = f"configurations of the {ILLEGAL_MODEL} model, illegal where the engine runs; for vllm on an H100"
    write_table("illegal", ILLEGAL_COLUMNS, found, (note,))


def write_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """In place of earlier ones of the same configurations."""
    notes = (
        f"kl: nats a token over {WINDOWS} windows of {TOKENS} tokens of a text that decides nothing",
        "device: what the configurations are legal for and the engine ran on",
    )
    key = ("engine", "model", "device", "config")
    found = sorted(beside("engines", rows, key), key=lambda row: [str(row[column]) for column in key])
    write_table("engines", COLUMNS, found, notes)


if __name__ == "__main__":
    main()
