"""Does the choice of calibration text matter? ``python -m benchmarks.calibration`` writes ``calibration.csv``.

One bank a text; every linear inside the blocks by a method that looks at inputs, KL on every text's held-out part.
``random`` is token ids drawn evenly; ``none`` is ``rtn``, which reads no text.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.compressors import GROUP, sources
from benchmarks.tables import write_table
from paretune import demo
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.documents import read_documents
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec

COLUMNS = ("calibrated_on", "tested_on", "method", "num_bits", "kl")
METHODS = ("weighted", "gptq")
WIDTHS = (3, 4)


@dataclass(frozen=True)
class Texts:
    """Where each text's windows of calibration and of testing come from."""

    calibration: dict[str, tuple[Path, tuple[int, ...] | None]]
    testing: dict[str, tuple[Path, tuple[int, ...] | None]]


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/")
    parser.add_argument("--windows", type=int, default=32, help="windows that are read (count)")
    parser.add_argument("--calibration-windows", type=int, default=64, help="windows of statistics (count)")
    parser.add_argument("--device", default="cpu", help="where the model computes, in float32")
    arguments = parser.parse_args()
    name = "embedded" if arguments.shared is None else "reference-48m"
    source = next(x for x in sources(arguments.shared) if x.name == name)
    spec = read_model(source.folder)
    model = load_dense(source.folder, spec, device=arguments.device)
    texts, tokenizer = _texts(arguments.shared), load_tokenizer(source.folder)

    def read(text: str, place: tuple[Path, tuple[int, ...] | None], count: int) -> TokenWindows:
        tokens = source.window_tokens
        return read_windows(
            tokenizer, place[0], text, window_tokens=tokens, count=count, seed=0, documents=place[1]
        )

    teachers = {
        key: Teacher(model, read(key, place, arguments.windows)) for key, place in texts.testing.items()
    }
    calibrations = {
        key: read(key, place, arguments.calibration_windows) for key, place in texts.calibration.items()
    }
    generator = torch.Generator().manual_seed(0)
    like = next(iter(calibrations.values())).ids
    ids = torch.randint(spec.vocabulary, like.shape, generator=generator)
    calibrations["random"] = TokenWindows.of(ids, "random")
    rows: list[dict[str, object]] = []
    for row in _rows(spec, model, source.folder, teachers, calibrations):
        print(*row.values(), flush=True)
        rows.append(row)
        write_table("calibration", COLUMNS, rows, [f"model: {name}"])


def _texts(shared: Path | None) -> Texts:
    if shared is None:
        place = demo.TEXTS
        found = {"calibration": (place / "calibration.txt", None), "search": (place / "search.txt", None)}
        return Texts(found, {"benchmark": (place / "benchmark.txt", None)})
    data = shared / "data" / "text"
    calibration: dict[str, tuple[Path, tuple[int, ...] | None]] = {
        "books": (data / "books-train.txt.bz2", tuple(range(40)))
    }
    testing: dict[str, tuple[Path, tuple[int, ...] | None]] = {"books": (data / "books-heldout.txt", (4, 10))}
    articles = data / "wikipedia-sample.txt"
    count = len(read_documents(articles))
    calibration["wikipedia"] = (articles, tuple(range(0, count, 2)))
    testing["wikipedia"] = (articles, tuple(range(1, count, 2)))
    # One document each: the first can only be calibrated on, the second only be tested on.
    calibration["c4"] = (data / "c4-sample.txt", None)
    testing["wikitext2"] = (data / "wikitext2-test.txt", None)
    return Texts(calibration, testing)


def _rows(
    spec: ModelSpec,
    model: Any,
    folder: Path,
    teachers: dict[str, Teacher],
    calibrations: dict[str, TokenWindows],
) -> Iterator[dict[str, object]]:
    for index, (name, windows) in enumerate(calibrations.items()):
        with tempfile.TemporaryDirectory() as place:
            bank = Bank.open(Path(place) / "bank", folder, model, spec, model_hash(folder), windows)
            bank.observations.correlate()
            assembler = Assembler(model, spec, bank, 2**32)
            for method in METHODS if index else ("rtn", *METHODS):
                for bits in WIDTHS:
                    choice = LayerChoice(weight=integer_format(bits, GROUP), method=method)
                    layers = dict.fromkeys((x.name for x in spec.block_linears), choice)
                    found = assembler.apply(CompressionConfig(layers=layers))
                    for tested_on, teacher in teachers.items():
                        yield {
                            "calibrated_on": "none" if method == "rtn" else name, "tested_on": tested_on,
                            "method": method, "num_bits": bits,
                            "kl": f"{float(teacher.compare(found).kl.mean()):.6g}",
                        }  # fmt: skip
            assembler.apply(DENSE_CONFIG)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
