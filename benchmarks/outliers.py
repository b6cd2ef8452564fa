"""What outliers do to W8A8, and who helps: ``python -m benchmarks.outliers --shared DIR`` writes ``outliers.csv``.

A few channels of every block's norms are made large and the columns that read them small, which leaves the model what
it was. Every linear inside the blocks is then rounded (inputs int8 by token; weights int8 by row, or 4 bits in groups
of 128 by ``rtn``) after each method, embedding, head and cache untouched; KL against the dense model on a text that
calibration did not see.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.compressors import Source, sources
from benchmarks.outlier_channels import OutlierChannels
from benchmarks.tables import write_table
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, load_tokenizer
from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.rounding import fake_int8
from paretune.compressors.transforms import find_transform
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.spaces.architectures import read_model
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec

COLUMNS = ("method", "num_bits", "kl")
TRANSFORMS = {"naive": None, "smoothquant": "smoothquant", "hadamard": "hadamard"}
"""Words of the table and of the registry."""
GROUP = 128


@dataclass(frozen=True)
class Bench:
    """What every row is measured with."""

    source: Source
    spec: ModelSpec
    calibration: TokenWindows
    teacher: Teacher
    outliers: OutlierChannels

    def heavy(self) -> Any:
        """A fresh outlier-heavy model."""
        model = load_dense(self.source.folder, self.spec)
        self.outliers.apply(model, self.spec)
        return model

    def kl(self, model: Any) -> float:
        """Mean KL against the dense model (nats per token)."""
        return float(self.teacher.compare(model).kl.mean())

    def rounded_kl(self, model: Any, num_bits: int) -> float:
        """The same with weights rounded for good, and inputs of linears meanwhile."""
        _round_weights(model, self.spec, num_bits)
        with _rounded_inputs(model, self.spec):
            return self.kl(model)


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/")
    parser.add_argument("--model", default="reference-48m", choices=("reference-48m", "embedded"))
    parser.add_argument("--windows", type=int, default=32, help="windows that are read (count)")
    parser.add_argument("--calibration-windows", type=int, default=64, help="windows of SmoothQuant (count)")
    parser.add_argument("--channels", type=int, default=3, help="outlier channels a norm (count)")
    parser.add_argument("--factor", type=float, default=64.0, help="that they are multiplied by")
    arguments = parser.parse_args()
    found = {source.name: source for source in sources(arguments.shared)}
    if arguments.model not in found:
        parser.error(f"--model {arguments.model} needs --shared")
    outliers = OutlierChannels(arguments.channels, arguments.factor)
    bench = prepare(found[arguments.model], arguments.windows, arguments.calibration_windows, outliers)
    plain = bench.rounded_kl(load_dense(bench.source.folder, bench.spec), 8)
    notes = (
        f"model: {arguments.model}, {arguments.channels} channels x {arguments.factor:g} in every norm of a block",
        f"windows: {arguments.windows} of the held-out text, {arguments.calibration_windows} of calibration,"
        f" {bench.source.window_tokens} tokens each",
        f"W8A8 of the model before it was made outlier-heavy: KL {plain:.6g}",
        f"outlier-heavy model, nothing rounded: KL {bench.kl(bench.heavy()):.3g}",
    )
    print(*notes, sep="\n", flush=True)
    write_table("outliers", COLUMNS, measure(bench), notes)


def prepare(source: Source, windows: int, calibration_windows: int, outliers: OutlierChannels) -> Bench:
    """Read the texts and keep the dense model's predictions."""
    spec, tokenizer = read_model(source.folder), load_tokenizer(source.folder)

    def read(text: str, place: tuple[Path, tuple[int, ...] | None], count: int) -> TokenWindows:
        tokens, (path, documents) = source.window_tokens, place
        return read_windows(
            tokenizer, path, text=text, window_tokens=tokens, count=count, seed=0, documents=documents
        )

    calibration = read("calibration", source.calibration, calibration_windows)
    teacher = Teacher(load_dense(source.folder, spec), read("benchmark", source.text, windows))
    return Bench(source, spec, calibration, teacher, outliers)


def measure(bench: Bench) -> Iterator[dict[str, object]]:
    """One row a method and width."""
    for bits in (8, 4):
        for word, name in TRANSFORMS.items():
            model = bench.heavy()
            if name is not None:
                find_transform(name).apply(model, bench.spec, bench.calibration)
            yield _row(word, bits, bench.rounded_kl(model, bits))


def _row(method: str, num_bits: int, kl: float) -> dict[str, object]:
    if not math.isfinite(kl):
        raise RuntimeError(f"{method} at {num_bits} bits: KL is {kl}")
    print(method, num_bits, f"{kl:.6g}", flush=True)
    return {"method": method, "num_bits": num_bits, "kl": f"{kl:.6g}"}


@torch.no_grad()
def _round_weights(model: Any, spec: ModelSpec, num_bits: int) -> None:
    for linear in spec.block_linears:
        weight = model.get_parameter(linear.parameter)
        if num_bits == 8:
            weight.copy_(fake_int8(weight, torch.float32))
        else:
            wanted = integer_format(num_bits, GROUP)
            rounded = find_quantizer("rtn").quantize(weight.detach(), wanted, None, torch.float32)
            weight.copy_(rounded.dequantize())


@contextmanager
def _rounded_inputs(model: Any, spec: ModelSpec) -> Iterator[None]:
    """Inputs of every linear inside the blocks in int8, one scale a token."""

    def round_input(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (fake_int8(inputs[0], torch.float32), *inputs[1:])

    modules = [model.get_submodule(linear.name) for linear in spec.block_linears]
    handles = [module.register_forward_pre_hook(round_input) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
