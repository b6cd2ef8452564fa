"""A searched front against llama.cpp's stock mixes: ``python -m benchmarks.gguf_front --run RUN``.

Writes ``gguf_front.csv``. ``RUN`` is a folder of ``paretune search --engine llama.cpp``. For every stock mix, of all
candidates that the search measured and that are no larger, the one of least KL on the search text is taken, and where
the search predicted times, the front of KL and time besides. What is reported is read on a text that decides nothing,
in llama.cpp itself, against the f32 file of the same model. ``kl_stderr`` of a stock row is that of its paired
difference to the member so taken for it, by window. Tokens a second are of decoding, one sequence, medians over rounds
in which all files take turns.

The stock mixes need an interpreter with ``llama-cpp-python`` (``--python``); files that are there already are kept.
``--speeds`` times the kept files of a measured model once more, on a machine that has grown quiet, and leaves the rest
of its rows as they are.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

from benchmarks.compressors import sources
from benchmarks.tables import beside, stamp, write_table
from paretune.compressors.covariance import keeper
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.engines.llama.gguf_file.file import write_gguf
from paretune.engines.llama.gguf_file.names import gguf_names
from paretune.engines.llama_engine import LlamaCpp
from paretune.pipeline.progress import Stages
from paretune.pipeline.run_file import validate_run
from paretune.pipeline.workbench import Workbench, open_workbench
from paretune.reports.reading import read_run_folder
from paretune.search.records import RecordFile
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig
from paretune.spaces.measurement import Record
from paretune.spaces.statistics import mean

COLUMNS = ("model", "config", "kind", "weight_bytes", "tokens_per_s", "kl", "kl_stderr")
WINDOWS = 32
PROMPT, OUTPUT, ROUNDS = 64, 64, 5
TIME = "tpot_s_predicted"
FAST_MEMBERS = 20


@dataclass
class File:
    """One GGUF file and what was measured of it; ``search_kl`` is what the search saw, absent for a stock mix."""

    path: Path
    name: str
    kind: str
    weight_bytes: int
    search_kl: float | None = None
    kl: np.ndarray | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """KL in nats a token."""
        return float("nan") if self.kl is None else float(self.kl.mean())


def main() -> None:
    """Measure one model; rows of others stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the search")
    parser.add_argument("--model", default="embedded", help="embedded or reference-48m")
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/, for reference-48m")
    parser.add_argument("--python", type=Path, help="interpreter that has llama-cpp-python")
    parser.add_argument("--work", type=Path, help="folder of GGUF files, kept; a temporary one if left out")
    parser.add_argument("--speeds", action="store_true", help="time the files in --work again, nothing else")
    arguments = parser.parse_args()
    if arguments.speeds and arguments.work is None:
        parser.error("--speeds times files of an earlier run: name their folder by --work")
    if arguments.speeds:
        measure_speeds(arguments.model, arguments.run, arguments.work)
        return
    with tempfile.TemporaryDirectory() as place:
        work = arguments.work or Path(place)
        work.mkdir(parents=True, exist_ok=True)
        bench = open_workbench(
            validate_run(read_run_folder(arguments.run).run.settings, "run.json"), arguments.run, Stages(True)
        )
        dense, stock = stock_files(bench, work, arguments.python)
        searched = list(searched_files(bench, arguments.run, stock, work))
        measure(dense, [*searched, *stock], windows_of(arguments.model, arguments.shared, bench), work)
    write(beside("gguf_front", list(rows(arguments.model, searched, stock)), ("model",)))


def windows_of(model: str, shared: Path | None, bench: Workbench) -> TokenWindows:
    """Of the text that decides nothing."""
    source = next(x for x in sources(shared) if x.name == model)
    path, documents = source.text
    return read_windows(
        bench.tokenizer, path, "benchmark", window_tokens=source.window_tokens, count=WINDOWS, seed=0,
        documents=documents,
    )  # fmt: skip


def stock_files(bench: Workbench, work: Path, python: Path | None) -> tuple[Path, list[File]]:
    """The f32 file, and llama.cpp's mixes of it."""
    dense, folder, importance = work / "f32.gguf", work / "stock", work / "importance.npz"
    write_once(bench, DENSE_CONFIG, dense, name="dense", floats="f32")
    if python is not None:
        np.savez(importance, **importances(bench, dense))
        program = Path(__file__).with_name("stock_mixes.py")
        command = [str(python), str(program), str(dense), str(folder), str(importance)]
        subprocess.run(command, check=True, capture_output=True)
    found = [File(path, path.stem, "stock", tensor_bytes(path)) for path in sorted(folder.glob("*.gguf"))]
    return dense, sorted(found, key=lambda file: file.weight_bytes)


def write_once(
    bench: Workbench, config: CompressionConfig, path: Path, *, name: str, floats: str | None = None
) -> None:
    """A file that is not there yet; it takes its name when it is whole, since what is found there is kept."""
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    write_gguf(bench.spec, bench.bank, config, bench.model_folder, partial, name=name, floats=floats)
    partial.replace(path)


def importances(bench: Workbench, path: Path) -> dict[str, np.ndarray]:
    """Mean square of every linear's input, by its tensor's name in the dense file: what ``llama-imatrix`` gathers."""
    reader = gguf.GGUFReader(path)
    family = str(reader.fields["general.architecture"].contents())
    there = {tensor.name for tensor in reader.tensors}
    found = {}
    for linear in bench.spec.block_linears:
        seen = bench.bank.statistics.layer(keeper(bench.spec, linear).name)
        if seen is not None and linear.experts == 1:
            (name,) = gguf_names(bench.spec, WHOLE, linear, family, there)
            found[name] = seen.second_moment.float().cpu().numpy()
    return found


def _readings(run: Path) -> list[Record]:
    """Everything that was read on as much of the search text as candidates are."""
    rows = [record for record in RecordFile(run) if record.fidelity.text == "search"]
    most = max(record.fidelity.tokens for record in rows)
    return [record for record in rows if record.fidelity.tokens == most]


def searched_files(bench: Workbench, run: Path, stock: Sequence[File], work: Path) -> Iterator[File]:
    """For every stock mix the best candidate that is no larger, by the search text; each once."""
    known = _readings(run)
    chosen: dict[str, Record] = {}
    for mix in stock:
        fitting = [record for record in known if bytes_of(record) <= mix.weight_bytes]
        if fitting:
            best = min(fitting, key=lambda record: record.measurements["kl"].value)
            chosen[best.digest] = best
    chosen |= {record.digest: record for record in fast_records(known)}
    for record in chosen.values():
        path = work / f"{record.digest[:12]}.gguf"
        write_once(bench, record.config, path, name=record.name)
        yield File(path, record.name, "searched", tensor_bytes(path), record.measurements["kl"].value)


def fast_records(known: Sequence[Record]) -> list[Record]:
    """The front of KL on the search text and predicted seconds a token, thinned; empty where none were predicted."""
    timed = [record for record in known if TIME in record.measurements]
    timed.sort(key=lambda record: (record.measurements[TIME].value, record.measurements["kl"].value))
    front: list[Record] = []
    for record in timed:
        if not front or record.measurements["kl"].value < front[-1].measurements["kl"].value:
            front.append(record)
    places = np.linspace(0, len(front) - 1, min(len(front), FAST_MEMBERS))
    return [front[round(place)] for place in places]


def bytes_of(record: Record) -> float:
    """Of every tensor, as the search counts them."""
    return record.measurements["weight_bytes"].value


def tensor_bytes(path: Path) -> int:
    """Of every tensor in the file."""
    from gguf import GGUFReader

    return sum(int(tensor.n_bytes) for tensor in GGUFReader(path).tensors)


def measure(dense: Path, files: Sequence[File], windows: TokenWindows, work: Path) -> None:
    """KL a window, and seconds a token in turns."""
    engine, ids = LlamaCpp(), work / "ids.npy"
    np.save(ids, windows.ids.numpy())
    reference = predicted(engine, dense, ids, work / "reference.npy")
    for file in files:
        found = predicted(engine, file.path, ids, work / "candidate.npy")
        file.kl = np.array(
            [
                float((np.exp(p) * (p - q)).sum(axis=-1, dtype=np.float64).mean())
                for p, q in zip(reference, found, strict=True)
            ]
        )
        print(file.kind, file.name, file.weight_bytes, f"{file.mean:.6g}", flush=True)
    time_in_turns(files)


def time_in_turns(files: Sequence[File]) -> None:
    """Seconds a token of every file, each once a round: what the machine does besides falls on all alike."""
    engine = LlamaCpp()
    for turn in range(ROUNDS):
        for file in files:
            request = {
                "task": "time",
                "model": str(file.path),
                "prompt_tokens": PROMPT,
                "output_tokens": OUTPUT,
            }
            file.seconds += engine.ask({**request, "repetitions": 2})["tpot_s"]
        print(f"round {turn + 1} of {ROUNDS}", flush=True)


def measure_speeds(model: str, run: Path, work: Path) -> None:
    """Put fresh tokens a second into the rows of a model."""
    digests = {record.name: record.digest for record in _readings(run)}
    table = beside("gguf_front", (), ("model",))
    own = [row for row in table if row["model"] == model]
    files = []
    for row in own:
        name, kind = str(row["config"]), str(row["kind"])
        path = work / f"{digests[name][:12]}.gguf" if kind == "searched" else work / "stock" / f"{name}.gguf"
        files.append(File(path, name, kind, int(str(row["weight_bytes"]))))
    time_in_turns(files)
    for row, file in zip(own, files, strict=True):
        row["tokens_per_s"] = f"{1.0 / statistics.median(file.seconds):.4g}"
    print("order of bytes against order of seconds a token:", order_agreement(files))
    write(table, f"tokens_per_s of {model}, {stamp()}")


def predicted(engine: LlamaCpp, model: Path, ids: Path, out: Path) -> np.ndarray:
    """Log-probabilities of every window, mapped."""
    engine.ask({"task": "predict", "model": str(model), "ids": str(ids), "out": str(out)})
    found: np.ndarray = np.load(out, mmap_mode="r")
    return found


def rows(model: str, searched: Sequence[File], stock: Sequence[File]) -> Iterator[dict[str, object]]:
    """One a file."""
    for file in [*searched, *stock]:
        if file.kl is None:
            raise TypeError(f"{file.name} was not read")
        error: float | None = mean(file.kl).stderr
        if file.kind == "stock":
            rival = best_by_search([other for other in searched if other.weight_bytes <= file.weight_bytes])
            if rival is None or rival.kl is None:
                error = None
            else:
                error = mean(file.kl - rival.kl).stderr
                said = f"{file.mean - rival.mean:.3g} +- {error:.2g}"
                print(f"{file.name}: {file.mean:.4g}, less {rival.name} of {rival.weight_bytes}: {said}")
        yield {
            "model": model, "config": file.name, "kind": file.kind, "weight_bytes": file.weight_bytes,
            "tokens_per_s": f"{1.0 / statistics.median(file.seconds):.4g}", "kl": f"{file.mean:.6g}",
            "kl_stderr": None if error is None else f"{error:.3g}",
        }  # fmt: skip
    print("order of bytes against order of seconds a token:", order_agreement([*searched, *stock]))
    for file in stock:
        seconds = statistics.median(file.seconds)
        rival = best_by_search([other for other in searched if statistics.median(other.seconds) <= seconds])
        if rival is not None and rival.kl is not None and file.kl is not None:
            error = mean(file.kl - rival.kl).stderr
            said = f"{file.mean - rival.mean:.3g} +- {error:.2g}, {rival.weight_bytes} bytes"
            print(f"{file.name} at {1 / seconds:.4g} tokens/s: {file.mean:.4g}, less {rival.name}: {said}")


def best_by_search(searched: Sequence[File]) -> File | None:
    """The member of least KL on the search text: what is reported must not choose what it is reported of."""
    known = [(file.search_kl, file) for file in searched if file.search_kl is not None]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def order_agreement(files: Sequence[File]) -> str:
    """Share of pairs that bytes put in the measured order, and Kendall's tau."""
    from scipy.stats import kendalltau

    sizes = [file.weight_bytes for file in files]
    found = kendalltau(sizes, [statistics.median(file.seconds) for file in files])
    return f"tau {found.statistic:.3f}, {(1 + found.statistic) / 2:.3f} of pairs"


def write(table: Sequence[Mapping[str, object]], *more: str) -> None:
    """The whole table."""
    notes = (
        "kl: nats a token in llama.cpp against the f32 file, on text that neither calibration nor search saw",
        "a name that ends in +imatrix is that mix with the importance matrix that the search has too",
        *more,
    )
    write_table("gguf_front", COLUMNS, table, notes)


if __name__ == "__main__":
    sys.exit(main())
