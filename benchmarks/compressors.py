"""What each method does to a whole model: ``python -m benchmarks.compressors --shared DIR`` writes ``compression.csv``.

Every linear inside the blocks at one width by one method, embedding, head and cache untouched; KL on a text that
neither calibration nor any search saw. ``seconds`` is the time to make the weights once statistics are there,
``peak_bytes`` what the process grew by meanwhile (Linux only).
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import demo
from benchmarks.tables import read_table, write_table
from compressors.assembly import Assembler
from compressors.bank import Bank
from compressors.divergence import Teacher
from compressors.loading import load_dense, load_tokenizer, model_hash
from compressors.windows import TokenWindows, read_windows
from engines import find_engine
from spaces.architectures import read_model
from spaces.patterns import Restrictions
from spaces.space import SearchSpace

COLUMNS = (
    "model", "method", "implementation", "num_bits", "group_size", "symmetric", "kl", "kl_stderr", "seconds",
    "peak_bytes",
)  # fmt: skip
WIDTHS = (2, 3, 4, 5, 6, 8)
METHODS = {"rtn": "rtn", "hqq-integer": "hqq", "gptq": "gptq"}
"""Words of the table and of the registry."""
GROUP = 128


@dataclass(frozen=True)
class Source:
    """A model and its texts."""

    name: str
    folder: Path
    calibration: tuple[Path, tuple[int, ...] | None]
    text: tuple[Path, tuple[int, ...] | None]
    window_tokens: int


def main() -> None:
    """Measure every model that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shared", type=Path, help="folder with models/ and data/; the embedded model alone if left out"
    )
    parser.add_argument("--models", nargs="*", help="names; all if left out")
    parser.add_argument("--windows", type=int, default=32, help="windows that are read (count)")
    parser.add_argument("--calibration-windows", type=int, default=64, help="windows of statistics (count)")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for source in sources(arguments.shared):
        if arguments.models is None or source.name in arguments.models:
            rows += measure(source, arguments.windows, arguments.calibration_windows)
    measured = {row["model"] for row in rows}
    write_table(
        "compression", COLUMNS, [r for r in read_table("compression") if r["model"] not in measured] + rows
    )


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


def measure(source: Source, windows: int, calibration_windows: int) -> Iterator[dict[str, object]]:
    """One row a method and width."""
    spec = read_model(source.folder)
    model, tokenizer = load_dense(source.folder, spec), load_tokenizer(source.folder)

    def read(text: str, place: tuple[Path, tuple[int, ...] | None], count: int) -> TokenWindows:
        path, documents = place
        return read_windows(
            tokenizer,
            path,
            text=text,
            window_tokens=source.window_tokens,
            count=count,
            seed=0,
            documents=documents,
        )

    calibration = read("calibration", source.calibration, calibration_windows)
    teacher = Teacher(model, read("benchmark", source.text, windows))
    with tempfile.TemporaryDirectory() as place:
        bank = Bank.open(
            Path(place) / "bank", source.folder, model, spec, model_hash(source.folder), calibration
        )
        assembler = Assembler(model, spec, bank, 2**32)
        for word, method in METHODS.items():
            for bits in WIDTHS:
                space = _space(spec, bank, bits, method)
                seconds, peak = _timed(lambda space=space: bank.build(space))
                genome = space.uniform(bits, method)
                if genome is None:
                    print(f"{source.name}: {method} at {bits} bits is not offered", flush=True)
                    continue
                config = space.decode(genome)
                kl = teacher.compare(assembler.apply(config)).kl
                weight = next(iter(config.sites.values())).weight
                row = {
                    "model": source.name, "method": word, "implementation": "paretune", "num_bits": bits,
                    "group_size": GROUP, "symmetric": int(weight.symmetric), "kl": f"{kl.mean():.6g}",
                    "kl_stderr": f"{kl.std(ddof=1) / len(kl) ** 0.5:.3g}", "seconds": f"{seconds:.3g}",
                    "peak_bytes": peak,
                }  # fmt: skip
                print(*row.values(), flush=True)
                yield row


def _space(spec: Any, bank: Bank, bits: int, method: str) -> SearchSpace:
    restrictions = Restrictions(
        bits=(bits, 16), outer_bits=(16,), methods=(method,), group_size=GROUP, sparsity=(0.0,), kv_bits=(16,)
    )
    return SearchSpace(spec, find_engine("torch").legality("cpu"), restrictions, bank.block_order)


def _timed(work: Any) -> tuple[float, int | None]:
    """Seconds of ``work``, and what the process grew by at its peak."""
    gc.collect()
    status = Path("/proc/self/status")
    if status.exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = _status("VmRSS"), time.perf_counter()
    work()
    seconds, peak = time.perf_counter() - start, _status("VmHWM")
    return seconds, None if before is None or peak is None else peak - before


def _status(key: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(x for x in status.read_text(encoding="ascii").splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
