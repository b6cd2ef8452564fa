"""A ladder of the embedded model in llama.cpp, exported as the command does it, and its real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from paretune import demo
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import read_windows
from paretune.engines import find_engine
from paretune.engines.foreign_process import process_variables
from paretune.engines.llama.gguf_file.names import FILE
from paretune.engines.llama.server import READY
from paretune.engines.manifest import MANIFEST
from paretune.evaluators.quality import QualityEvaluator
from paretune.pipeline.run_file import RunFile
from paretune.spaces.architectures import read_model
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.measurement import Measurement
from paretune.spaces.named_formats import find_choice
from paretune.spaces.result import Member

ROOT = Path(__file__).resolve().parents[2]


def embedded_bench(folder: Path) -> Any:
    """What of a workbench an export asks for."""
    engine = find_engine("llama.cpp")
    spec, tokenizer = engine.stored(read_model(demo.MODEL)), load_tokenizer(demo.MODEL)
    model = load_dense(demo.MODEL, spec)
    windows = {
        name: read_windows(tokenizer, demo.TEXTS / f"{name}.txt", name, window_tokens=48, count=20)
        for name in ("calibration", "report")
    }
    hashed = model_hash(demo.MODEL)
    bank = Bank.open(folder / "bank", demo.MODEL, model, spec, hashed, windows["calibration"])
    assembler = Assembler(model, spec, bank)
    return SimpleNamespace(
        engine=engine, spec=spec, tokenizer=tokenizer, windows=windows, bank=bank, model_folder=demo.MODEL,
        assembler=assembler, hashes={"model": hashed, "bank": bank.hash}, run=RunFile(model="embedded"),
        quality=QualityEvaluator(assembler, {"report": Teacher(model, windows["report"])}),
        device=SimpleNamespace(name="cpu"), executed=partial(engine.executed_config, spec, device="cpu"),
    )  # fmt: skip


def member(
    name: str, kl: float | None, config: CompressionConfig | None = None, *, on_front: bool = True
) -> Member:
    config = config or CompressionConfig()
    found = {} if kl is None else {"kl": Measurement(value=kl, unit="nat", n=1, by="test")}
    found["weight_bytes"] = Measurement(value=1e6, unit="B", n=1, by="test")
    return Member(
        digest=config.digest, name=name, kind="searched", on_front=on_front, config=config, measurements=found
    )


def uniform_member(spec: Any, form: str, kl: float) -> Member:
    choice = find_choice(form)
    return member(form, kl, CompressionConfig(layers={layer.name: choice for layer in spec.block_linears}))


@contextmanager
def server(file: Path) -> Iterator[tuple[str, int]]:
    """Llama.cpp's server over a file: its address and process."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "engines" / "llama" / "server.py"), str(file), "--threads", "1"],
        env=process_variables(foreign=False), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(READY), line
        yield line.removeprefix(READY).strip(), process.pid
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def flip_bytes(file: Path, tensor: str, count: int = 64, seed: int = 0) -> None:
    """Invert some bytes of one tensor of a GGUF file, wherever they are in its blocks."""
    from gguf import GGUFReader

    found = next(t for t in GGUFReader(file).tensors if t.name == tensor)
    start, size = int(found.data_offset), int(found.n_bytes)
    places = start + np.random.default_rng(seed).choice(size, count, replace=False)
    del found
    raw = bytearray(file.read_bytes())
    for place in places.tolist():
        raw[place] ^= 0xFF
    file.write_bytes(raw)


__all__ = ["FILE", "MANIFEST", "embedded_bench", "flip_bytes", "member", "server", "uniform_member"]
