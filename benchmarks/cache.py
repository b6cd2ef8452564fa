"""What a rounded cache does to a whole model: ``python -m benchmarks.cache --shared DIR`` writes ``cache.csv``.

KL on long windows (2,048 tokens, or the model's context if that is shorter) of a text that calibration did not see;
every linear untouched. Formats block by block are a study: where each block alone is narrow, and where the half of the
blocks that 4 bits hurt most keeps 8 bits while the others have 4, against the halves swapped.

:func:`measure_cache` gives the rows that ``compression.csv`` holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.tables import beside, write_table
from paretune.compressors.cache_rounding import CacheRounding
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, load_tokenizer
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.spaces.architectures import read_model
from paretune.spaces.cache_format import CACHE_GROUP, KVFormat

if TYPE_CHECKING:
    from benchmarks.compressors import Source

COLUMNS = ("model", "format", "window_tokens", "windows", "bytes_a_token", "kl", "kl_stderr")
WINDOW_TOKENS = 2048
_EIGHT, _FOUR = (KVFormat(num_bits=bits) for bits in (8, 4))


@dataclass(frozen=True)
class CacheBench:
    """A model and its long windows.

    Attributes:
        source: model and texts.
        windows: windows that are read (count).
    """

    source: Source
    windows: int

    @cached_property
    def model(self) -> Any:
        """The dense model."""
        return load_dense(self.source.folder, self.spec)

    @cached_property
    def spec(self) -> Any:
        """Its specification."""
        return read_model(self.source.folder)

    @cached_property
    def teacher(self) -> Teacher:
        """The dense model's predictions; made before anything is rounded."""
        return Teacher(self.model, self._read("benchmark", self.source.text, self.windows))

    @cached_property
    def _rounding(self) -> CacheRounding:
        return CacheRounding(self.model, getattr(torch, self.spec.dtype))

    def kl(self, kv: KVFormat) -> tuple[float, float | None]:
        """Mean KL a token (nats) of the model with this cache, and its standard error over windows."""
        teacher = self.teacher
        self._rounding.apply(kv)
        found = teacher.compare(self.model).mean_kl
        self._rounding.apply(KVFormat())
        return found.value, found.stderr

    def bytes_a_token(self, kv: KVFormat) -> int:
        """Of keys and values in all blocks."""
        spec = self.spec
        return sum(
            kv.block(block).stored_bytes(layer.kv_heads, layer.head_dim, spec.dtype_bytes)
            for block, layer in spec.attention
        )

    def row(self, label: str, kv: KVFormat) -> dict[str, object]:
        """Of ``cache.csv``."""
        kl, error = self.kl(kv)
        windows = self.teacher.windows
        values = (
            self.source.name, label, windows.window_tokens, windows.count, self.bytes_a_token(kv), f"{kl:.6g}",
            f"{error:.3g}",
        )  # fmt: skip
        print(*values, flush=True)
        return dict(zip(COLUMNS, values, strict=True))

    def _read(self, text: str, place: tuple[Path, tuple[int, ...] | None], count: int) -> TokenWindows:
        return read_windows(
            load_tokenizer(self.source.folder),
            place[0],
            text=text,
            window_tokens=min(WINDOW_TOKENS, self.spec.context),
            count=count,
            seed=0,
            documents=place[1],
        )


def measure_cache(source: Source, windows: int) -> Iterator[dict[str, object]]:
    """Rows of ``compression.csv``: INT8 and INT4.

    ``group_size`` is how many numbers share a scale: the channels of a token and head, or a group of them. No weights
    are made, so ``seconds`` and ``peak_bytes`` are empty.
    """
    bench = CacheBench(source, windows)
    methods = (
        ("kv-int8", _EIGHT, bench.spec.head_dim),
        ("kv-int4", _FOUR, CACHE_GROUP),
    )
    for method, kv, group_size in methods:
        kl, error = bench.kl(kv)
        row: dict[str, object] = {
            "model": source.name, "method": method, "implementation": "paretune", "num_bits": kv.num_bits,
            "group_size": group_size, "symmetric": int(kv.num_bits == 8), "kl": f"{kl:.6g}",
            "kl_stderr": f"{error:.3g}", "seconds": None, "peak_bytes": None,
        }  # fmt: skip
        print(*row.values(), flush=True)
        yield row


def study_cache(source: Source, windows: int) -> Iterator[dict[str, object]]:
    """Rows of ``cache.csv``: every format, each block alone at 4 bits, and halves of the blocks."""
    bench = CacheBench(source, windows)
    floats = KVFormat(num_bits=8, number_type="float")
    formats = (KVFormat(), floats, _EIGHT, _FOUR, KVFormat(num_bits=2))
    for kv in formats:
        yield bench.row(kv.name, kv)
    blocks, damage = len(bench.spec.cache), {}
    for block in range(blocks):
        alone = KVFormat.layered([_FOUR if block == i else KVFormat() for i in range(blocks)])
        row = bench.row(f"kv4 in block {block}", alone)
        damage[block] = float(str(row["kl"]))
        yield row
    order = sorted(damage, key=lambda block: damage[block], reverse=True)
    half = blocks // 2
    for label, wide in (("worst", order[:half]), ("best", order[-half:])):
        yield bench.row(f"kv8 in the {label} half, kv4 in the other", _halves(wide, blocks))


def _halves(wide: Sequence[int], blocks: int) -> KVFormat:
    return KVFormat.layered([_EIGHT if block in wide else _FOUR for block in range(blocks)])


def main() -> None:
    """Study every model that is there."""
    from benchmarks.compressors import sources

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shared", type=Path, help="folder with models/ and data/; the embedded model alone if left out"
    )
    parser.add_argument("--models", nargs="*", help="names; all if left out")
    parser.add_argument("--windows", type=int, default=8, help="windows that are read (count)")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for source in sources(arguments.shared):
        if arguments.models is None or source.name in arguments.models:
            rows += study_cache(source, arguments.windows)
    write_table("cache", COLUMNS, beside("cache", rows, ("model",)))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
