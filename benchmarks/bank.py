"""How long a bank takes: ``python -m benchmarks.bank --shared DIR`` writes ``bank.csv``.

Two machines, two models. On two cores the reference model, all of it. On a GPU the shape of Llama-3.1-8B with random
weights: ``rtn`` in full; what reads covariances on 4 of 32 blocks, and ``seconds`` is then that time by 8
(``scaled`` says so). ``statistics`` is the pass that everything shares, ``covariances`` the one that ``gptq`` and
``awq`` share; ``all`` is their sum and that of the methods.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.compressors import sources
from benchmarks.tables import beside, write_table
from paretune.compressors.bank import Bank
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.engines import find_engine
from paretune.spaces.architectures import read_model
from paretune.spaces.model import ModelSpec
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace

COLUMNS = ("model", "device", "step", "widths", "windows", "blocks", "scaled", "seconds", "bank_bytes")
METHODS = ("rtn", "hqq", "gptq", "awq")
COVARIANT = ("gptq", "awq")
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
"""The shape of Llama-3.1-8B, from its public ``config.json``."""


@dataclass(frozen=True)
class Filled:
    """A model whose bank is filled.

    Attributes:
        name: in the table.
        device: in the table.
        spec, model, source: of the model; ``source`` is its folder, if it has one.
        hash: of its weights.
        windows: of calibration.
        widths: that are made.
        whole: blocks of the model that the figures stand for.
    """

    name: str
    device: str
    spec: ModelSpec
    model: Any
    source: Path | None
    hash: str
    windows: TokenWindows
    widths: tuple[int, ...]
    whole: int


def main() -> None:
    """Measure one model on one device; rows of others stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/: the reference model")
    parser.add_argument(
        "--blocks", type=int, help="blocks of Llama-3.1-8B's shape on the GPU instead (count)"
    )
    parser.add_argument("--methods", nargs="*", default=METHODS, help="of the bank")
    parser.add_argument("--widths", nargs="*", type=int, default=(2, 3, 4, 5, 6, 8), help="bits")
    parser.add_argument("--windows", type=int, default=64, help="windows of calibration, 512 tokens (count)")
    arguments = parser.parse_args()
    widths = tuple(arguments.widths)
    filled = (
        random_llama(arguments.blocks, arguments.windows, widths)
        if arguments.blocks is not None
        else reference(arguments.shared, arguments.windows, widths)
    )
    write(list(fill(filled, arguments.methods)))


def reference(shared: Path, windows: int, widths: tuple[int, ...]) -> Filled:
    """The 48 M reference model on the cores that the process may use."""
    source = next(x for x in sources(shared) if x.name == "reference-48m")
    spec = read_model(source.folder)
    model, tokenizer = load_dense(source.folder, spec), load_tokenizer(source.folder)
    path, documents = source.calibration
    text = read_windows(
        tokenizer, path, "calibration", window_tokens=512, count=windows, seed=0, documents=documents
    )
    cores = f"{torch.get_num_threads()} cores"
    found = model_hash(source.folder)
    return Filled(source.name, cores, spec, model, source.folder, found, text, widths, spec.blocks)


def random_llama(blocks: int, windows: int, widths: tuple[int, ...]) -> Filled:
    """So many blocks of Llama-3.1-8B's shape with random weights, on the GPU."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {**LLAMA, "num_hidden_layers": blocks}
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        spec = read_model(Path(place), source="llama-3.1-8b")
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        config = AutoConfig.for_model(**values)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    ids = torch.randint(0, values["vocab_size"], (windows, 512), generator=torch.Generator().manual_seed(1))
    text = TokenWindows.of(ids, "calibration")
    name = torch.cuda.get_device_name(0) if device == "cuda" else "cpu"
    return Filled("llama-3.1-8b", name, spec, model, None, f"random {blocks}", text, widths, 32)


def fill(filled: Filled, methods: Sequence[str]) -> Iterator[dict[str, object]]:
    """One row a step, each method in the bank that the ones before it left."""
    total, size = 0.0, 0
    scale = filled.whole / filled.spec.blocks
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bank"
        bank, seconds = _timed(lambda: _open(folder, filled))
        total += seconds
        yield _row(filled, "statistics", (), seconds * scale, None)
        if set(methods) & set(COVARIANT):
            _, seconds = _timed(bank.observations.correlate)
            total += seconds
            yield _row(filled, "covariances", (), seconds * scale, None)
        size = _folder_bytes(folder)
        for method in methods:
            space = _space(filled, method)
            _, seconds = _timed(lambda space=space: bank.build(space))
            total += seconds
            before, size = size, _folder_bytes(folder)
            yield _row(filled, method, filled.widths, seconds * scale, (size - before) * scale)
    yield _row(filled, "all", filled.widths, total * scale, size * scale)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _open(folder: Path, filled: Filled) -> Bank:
    return Bank.open(folder, filled.source, filled.model, filled.spec, filled.hash, filled.windows)


def _space(filled: Filled, method: str) -> SearchSpace:
    """Every linear inside the blocks, every width, one method."""
    limits = Restrictions(
        bits=(*filled.widths, 16), embedding_bits=(16,), methods=(method,), sparsity=(0.0,), kv_bits=(16,)
    )
    return SearchSpace(filled.spec, find_engine("torch").legality("any"), limits)


def _timed(work: Any) -> tuple[Any, float]:
    _synchronize()
    start = time.perf_counter()
    result = work()
    _synchronize()
    return result, time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _row(
    filled: Filled, step: str, widths: Sequence[int], seconds: float, size: float | None
) -> dict[str, object]:
    row: dict[str, object] = {
        "model": filled.name, "device": filled.device, "step": step, "widths": " ".join(map(str, widths)),
        "windows": filled.windows.count, "blocks": filled.spec.blocks,
        "scaled": str(filled.whole != filled.spec.blocks).lower(), "seconds": f"{seconds:.4g}",
        "bank_bytes": None if size is None else int(size),
    }  # fmt: skip
    print(*row.values(), flush=True)
    return row


def write(rows: Sequence[dict[str, object]]) -> None:
    """Into ``bank.csv``, beside the rows of other models and devices."""
    key = ("model", "device", "blocks", "step")
    write_table("bank", COLUMNS, beside("bank", rows, key))


if __name__ == "__main__":
    main()
