"""What each format and method does to a whole model: ``python -m benchmarks.compressors`` writes ``compression.csv``.

Every linear inside the blocks in one format by one method, embedding, head and cache untouched; KL on a text that
neither calibration nor any search saw. ``seconds`` is the time to make the weights once statistics are there (for
``autoround`` and ``qat`` everything), ``peak_bytes`` what the process grew by meanwhile (Linux only). ``group_size`` 0
is one scale a channel. With ``--python INTERPRETER`` other libraries run on the same model and windows
(:mod:`benchmarks.peers`); in their rows ``kl_stderr`` is the standard error, by window, of the paired difference to
ours. ``--keep FOLDER`` keeps our KL of every window; ``--kept FOLDER`` takes it from there and measures others alone.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.peer_programs.job import measured
from benchmarks.tables import beside, write_table
from paretune import demo
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.training.block_rounding import RoundingSettings
from paretune.compressors.training.model_rounding import tune_model
from paretune.compressors.training.training_settings import TrainingSettings
from paretune.compressors.training.whole_model import bank_start, train_best
from paretune.compressors.weight_provider import Overlay
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import ParetuneError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import find_choice

COLUMNS = (
    "model", "method", "implementation", "num_bits", "group_size", "symmetric", "kl", "kl_stderr", "seconds",
    "peak_bytes",
)  # fmt: skip
WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP = 128
CACHE_WINDOWS = 24
"""Windows of 2,048 tokens: the held-out documents hold 29."""
TRAINED = {"autoround": (2, 3, 4), "qat": (2, 3)}
"""Widths of what is made for a whole configuration."""
NAMED = {
    "fp8-channel": ("fp8-channel",),
    "fp8-block": ("fp8-block",),
    "nvfp4": ("nvfp4",),
    "mxfp4": ("mxfp4",),
    "mxfp8": ("mxfp8",),
    "w8a8-static": ("w8a8-static/minmax",),
    "w8a8-dynamic": ("w8a8-dynamic/minmax",),
    "nf4": ("nf4/minmax",),
    "kmeans": ("kmeans2", "kmeans3", "kmeans4"),
    "learned": ("learned2", "learned3", "learned4"),
}
"""Words of the table, and the named formats that they stand for."""


@dataclass(frozen=True)
class Source:
    """A model and its texts."""

    name: str
    folder: Path
    calibration: tuple[Path, tuple[int, ...] | None]
    text: tuple[Path, tuple[int, ...] | None]
    window_tokens: int


def main() -> None:
    """Measure every model that is there; rows of other models and methods stay."""
    arguments = _arguments()
    rows: list[dict[str, object]] = []
    for source in sources(arguments.shared):
        if arguments.models is not None and source.name not in arguments.models:
            continue
        for row in _rows(source, arguments):
            rows.append(row)
            _write(rows)  # each at once: a program that is stopped has written what it measured


def _rows(source: Source, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    ours = Measured() if arguments.kept is None else Measured.read(arguments.kept, source.name)
    if arguments.kept is None:
        yield from measure(
            source, arguments.windows, arguments.calibration_windows, ours, arguments.methods,
            arguments.device, arguments.keep, arguments.widths,
        )  # fmt: skip
    if arguments.python is not None:
        yield from _peers(source, ours, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shared", type=Path, help="folder with models/ and data/; the embedded model alone if left out"
    )
    parser.add_argument("--models", nargs="*", help="names; all if left out")
    parser.add_argument("--methods", nargs="*", help="words of the table; all if left out")
    parser.add_argument("--widths", nargs="*", type=int, help="bits; all if left out")
    parser.add_argument("--windows", type=int, default=32, help="windows that are read (count)")
    parser.add_argument("--calibration-windows", type=int, default=64, help="windows of statistics (count)")
    parser.add_argument("--device", default="cpu", help="where the model computes, in float32")
    parser.add_argument("--python", type=Path, help="interpreter that has the other libraries")
    parser.add_argument("--keep", type=Path, help="folder that our KL of every window is written to")
    parser.add_argument("--kept", type=Path, help="such a folder, read instead of measuring")
    return parser.parse_args()


def _write(rows: Sequence[Mapping[str, object]]) -> None:
    key = ("model", "method", "implementation", "num_bits", "group_size", "symmetric")
    order = {name: i for i, name in enumerate(("embedded", "reference-48m", "reference-moe"))}
    both = sorted(beside("compression", rows, key), key=lambda row: order[str(row["model"])])
    write_table("compression", COLUMNS, both)


def _peers(source: Source, ours: Measured, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    from benchmarks.peer_table import PEERS
    from benchmarks.peers import peer_rows

    known = {method for method, _, _ in ours.kl}
    wanted = known if arguments.methods is None else known & set(arguments.methods)
    widths = arguments.widths
    peers = [peer for peer in PEERS if peer.method in wanted and (widths is None or peer.num_bits in widths)]
    for peer in peers:
        try:
            yield from peer_rows(
                source, ours.kl, arguments.python, windows=arguments.windows,
                calibration_windows=arguments.calibration_windows, peers=[peer],
            )  # fmt: skip
        except ParetuneError as error:
            print(f"{source.name}: {peer.implementation} {peer.method}: {error}", flush=True)


def sources(shared: Path | None) -> list[Source]:
    """The embedded model, and the two reference models where they are."""
    texts = (demo.TEXTS / "calibration.txt", None), (demo.TEXTS / "benchmark.txt", None)
    found = [Source("embedded", demo.MODEL, *texts, 256)]
    if shared is not None:
        data = shared / "data" / "text"
        calibration = (data / "books-train.txt.bz2", tuple(range(40)))
        held_out = (data / "books-heldout.txt", (4, 10))
        names = ("reference-48m", "reference-moe")
        found += [Source(name, shared / "models" / name, calibration, held_out, 512) for name in names]
    return found


class Measured:
    """KL a window of our rows, by method, bits and symmetry: what peers are paired with."""

    def __init__(self) -> None:
        self.kl: dict[tuple[str, int, bool], np.ndarray] = {}

    def write(self, folder: Path, model: str) -> None:
        """Keep it in ``folder``, beside what is there of other methods."""
        folder.mkdir(parents=True, exist_ok=True)
        known = Measured.read(folder, model).kl if (folder / f"{model}.npz").exists() else {}
        values = {f"{m} {b} {int(s)}": kl for (m, b, s), kl in {**known, **self.kl}.items()}
        np.savez(folder / f"{model}.npz", **values)

    @classmethod
    def read(cls, folder: Path, model: str) -> Measured:
        """What :meth:`write` kept."""
        found = cls()
        with np.load(folder / f"{model}.npz") as kept:
            for name, kl in kept.items():
                method, bits, symmetric = name.split()
                found.kl[method, int(bits), symmetric == "1"] = kl
        return found


@dataclass(frozen=True)
class Bench:
    """One model, opened once.

    Attributes:
        source: of the model.
        spec: of the model.
        assembler: over its bank.
        teacher: on the windows that are read.
        calibration: windows of statistics and training.
    """

    source: Source
    spec: ModelSpec
    assembler: Assembler
    teacher: Teacher
    calibration: TokenWindows

    @classmethod
    def of(cls, source: Source, folder: Path, windows: int, calibration_windows: int, device: str) -> Bench:
        """Open the model and start its bank in ``folder``."""
        spec = read_model(source.folder)
        model, tokenizer = load_dense(source.folder, spec, device=device), load_tokenizer(source.folder)

        def read(text: str, place: tuple[Path, tuple[int, ...] | None], count: int) -> TokenWindows:
            tokens = source.window_tokens
            return read_windows(
                tokenizer, place[0], text, window_tokens=tokens, count=count, seed=0, documents=place[1]
            )

        calibration = read("calibration", source.calibration, calibration_windows)
        teacher = Teacher(model, read("benchmark", source.text, windows))
        bank = Bank.open(folder, source.folder, model, spec, model_hash(source.folder), calibration)
        return cls(source, spec, Assembler(model, spec, bank, 2**32), teacher, calibration)

    def config(self, choice: LayerChoice) -> CompressionConfig:
        """Every linear inside the blocks."""
        return CompressionConfig(layers=dict.fromkeys((x.name for x in self.spec.block_linears), choice))


def measure(
    source: Source,
    windows: int,
    calibration_windows: int,
    ours: Measured,
    methods: Sequence[str] | None = None,
    device: str = "cpu",
    keep: Path | None = None,
    widths: Sequence[int] | None = None,
) -> Iterator[dict[str, object]]:
    """One row a method and width; those that a model's shapes refuse are said and left out."""
    with tempfile.TemporaryDirectory() as place:
        bench = Bench.of(source, Path(place) / "bank", windows, calibration_windows, device)
        for word, choice in _choices():
            wanted = widths is None or choice.weight.num_bits in widths
            if wanted and (methods is None or word in methods):
                try:
                    row = _row(bench, word, choice, ours)
                    if keep is not None:
                        ours.write(keep, source.name)
                    yield row
                except ParetuneError as error:
                    print(f"{source.name}: {word}: {error}", flush=True)
    if methods is None or any(word.startswith("kv-") for word in methods):
        from benchmarks.cache import measure_cache

        yield from measure_cache(source, min(windows, CACHE_WINDOWS))


def _choices() -> Iterator[tuple[str, LayerChoice]]:
    for bits in WIDTHS:
        floating = WeightFormat(
            num_bits=bits, number_type="int", group_size=GROUP, symmetric=False, zero_point="float"
        )
        yield "rtn", LayerChoice(weight=integer_format(bits, GROUP), method="rtn")
        yield "hqq", LayerChoice(weight=floating, method="hqq")
        yield "hqq-integer", LayerChoice(weight=integer_format(bits, GROUP, symmetric=False), method="hqq")
        yield "gptq", LayerChoice(weight=integer_format(bits, GROUP), method="gptq")
        for symmetric in (True, False):
            yield "awq", LayerChoice(weight=integer_format(bits, GROUP, symmetric), method="awq")
        for word, widths in TRAINED.items():
            if bits in widths:
                yield word, LayerChoice(weight=integer_format(bits, GROUP), method="gptq")
    for word, names in NAMED.items():
        for name in names:
            yield word, find_choice(name)


def _row(bench: Bench, word: str, choice: LayerChoice, ours: Measured) -> dict[str, object]:
    config, assembler = bench.config(choice), bench.assembler
    if find_quantizer(choice.method).needs_covariance:
        assembler.bank.observations.correlate()

    def make() -> Assembler:
        if word in TRAINED:
            return _trained(bench, word, config)
        for layer in config.layers:
            assembler.bank.quantized(layer, choice)
        return assembler

    maker, seconds, peak = measured(make)
    found = bench.teacher.compare(maker.apply(config))
    kl = found.kl
    maker.apply(DENSE_CONFIG)  # by the assembler that changed the model: another does not know what it did
    weight = choice.weight
    ours.kl[word, weight.num_bits, weight.symmetric] = np.asarray(kl, dtype=np.float64)
    _free()
    row: dict[str, object] = {
        "model": bench.source.name, "method": word, "implementation": "paretune", "num_bits": weight.num_bits,
        "group_size": weight.group_size or 0, "symmetric": int(weight.symmetric), "kl": f"{kl.mean():.6g}",
        "kl_stderr": f"{found.mean_kl.stderr:.3g}", "seconds": f"{seconds:.3g}", "peak_bytes": peak,
    }  # fmt: skip
    print(*row.values(), flush=True)
    return row


def _trained(bench: Bench, word: str, config: CompressionConfig) -> Assembler:
    """An assembler whose weights were trained for this very configuration."""
    bank = bench.assembler.bank
    model = bench.assembler.apply(DENSE_CONFIG)
    if word == "qat":
        settings = TrainingSettings(scale_dtype=bank.scale_dtype)
        start = bank_start(bank, config)
        weights = train_best(model, bench.spec, config, bench.calibration, settings, start).weights
    else:
        formats = {layer: choice.weight for layer, choice in config.layers.items()}
        rounding = RoundingSettings(scale_dtype=bank.scale_dtype)
        weights = dict(tune_model(model, bench.spec, bench.calibration, formats, rounding, sequential=True))
    return Assembler(model, bench.spec, Overlay(bank, weights, word), 2**32)


def _free() -> None:
    """Give memory back between rows: copies of the last candidate would count as the next one's."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
