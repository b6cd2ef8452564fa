"""The same model and texts through other libraries: ``python -m benchmarks.peers --python INTERPRETER``.

``INTERPRETER`` belongs to an environment that has the libraries. Each program of :mod:`benchmarks.peer_programs` runs
there, on our calibration windows, and hands back the weights that its checkpoint would compute with. These are put
into our dense model and read on the windows that our own rows are measured on, so that every difference is paired
by window.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.compressors import Source, sources
from benchmarks.peer_programs.job import Job
from benchmarks.peer_table import PEERS, VARIANTS, Peer
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, load_tokenizer
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import ParetuneError
from paretune.spaces.measurement import Sample
from paretune.spaces.statistics import mean

ROOT = Path(__file__).resolve().parent.parent
Ours = Mapping[tuple[str, int, bool], np.ndarray]
"""Our KL a window by method, bits and symmetry."""


class PeerError(ParetuneError):
    """A peer's program ended without an answer that can be compared."""


@dataclass(frozen=True)
class Bench:
    """The dense model, its divergences, and what a peer is given.

    Attributes:
        source: model and texts.
        model: dense, in float32.
        teacher: on the windows that rows are measured on.
        calibration: what peers calibrate on.
        linears: module paths of every linear inside the blocks.
    """

    source: Source
    model: Any
    teacher: Teacher
    calibration: TokenWindows
    linears: tuple[str, ...]

    @classmethod
    def of(cls, source: Source, windows: int = 32, calibration_windows: int = 64) -> Bench:
        """The same windows as :func:`benchmarks.compressors.measure` draws."""
        spec = read_model(source.folder)
        model, tokenizer = load_dense(source.folder, spec), load_tokenizer(source.folder)

        def read(text: str, place: tuple[Path, tuple[int, ...] | None], count: int) -> TokenWindows:
            path, documents = place
            tokens = source.window_tokens
            return read_windows(
                tokenizer, path, text, window_tokens=tokens, count=count, seed=0, documents=documents
            )

        teacher = Teacher(model, read("benchmark", source.text, windows))
        calibration = read("calibration", source.calibration, calibration_windows)
        inside = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
        linears = tuple(name for name in inside if ".layers." in name)
        return cls(source, model, teacher, calibration, linears)


@dataclass(frozen=True)
class Answer:
    """What a program handed back.

    Attributes:
        seconds: of the method, calibration included, the model already loaded.
        peak_bytes: what the process grew by meanwhile; ``None`` where the system does not say.
        version: of the library.
        kl: a window, where the program compared its own model.
        weights: float32, by parameter name, where it did not.
    """

    seconds: float
    peak_bytes: int | None
    version: str
    kl: np.ndarray | None
    weights: dict[str, torch.Tensor]


def run_peer(bench: Bench, peer: Peer, python: Path) -> Answer:
    """Run one program with ``python``.

    Raises:
        PeerError: it failed, or left a linear of the blocks as it was.
    """
    job = Job(
        model=str(bench.source.folder),
        package=peer.package,
        method=peer.method,
        linears=bench.linears,
        num_bits=peer.num_bits,
        group_size=peer.group_size,
        symmetric=peer.symmetric,
        options=dict(peer.options),
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job.write(folder, bench.calibration.ids, bench.teacher.windows.ids)
        command = [str(python), "-m", f"benchmarks.peer_programs.{peer.program}", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError(
                f"{peer.program} for {peer.method} at {peer.num_bits} bits",
                f"ended with status {done.returncode}: {done.stderr[-2000:]}",
                f"Install {peer.package} for {python}, or leave the library out with --only",
            )
        told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        kl = np.array(told["kl"]) if "kl" in told else None
        weights = {} if kl is not None else load_file(folder / "weights.safetensors")
    if kl is None:
        _check(bench, peer, weights)
    return Answer(told["seconds"], told["peak_bytes"], told["version"], kl, weights)


def _check(bench: Bench, peer: Peer, weights: Mapping[str, torch.Tensor]) -> None:
    parameters = dict(bench.model.named_parameters())
    for name in (f"{linear}.weight" for linear in bench.linears):
        if name not in weights:
            raise PeerError(
                f"{name} of {peer.implementation}", "is as it was", "Look at the program's targets"
            )
    for name, value in weights.items():
        if name not in parameters or parameters[name].shape != value.shape or not value.isfinite().all():
            raise PeerError(
                f"{name} of {peer.implementation}", "is no finite tensor of its shape", "Look at the program"
            )


@contextmanager
def swapped(model: Any, weights: Mapping[str, torch.Tensor]) -> Iterator[Any]:
    """The model with other values in some parameters; as it was afterwards."""
    parameters = dict(model.named_parameters())
    dense = {name: parameters[name].data for name in weights}
    try:
        for name, value in weights.items():
            parameters[name].data = value.to(dense[name].dtype)
        yield model
    finally:
        for name, value in dense.items():
            parameters[name].data = value


def window_kl(bench: Bench, answer: Answer) -> np.ndarray:
    """KL of each window, float64."""
    if answer.kl is not None:
        return answer.kl
    with swapped(bench.model, answer.weights) as model:
        return np.asarray(bench.teacher.compare(model).kl, dtype=np.float64)


def peer_rows(
    source: Source,
    ours: Ours,
    python: Path,
    *,
    windows: int = 32,
    calibration_windows: int = 64,
    peers: Sequence[Peer] = PEERS,
) -> Iterator[dict[str, object]]:
    """Rows of ``compression.csv``, one a peer.

    Args:
        source: model and texts.
        ours: KL a window, ``(windows,)``, of our rows of the same model and windows. A row that we have not stays
            without ``kl_stderr``.
        python: interpreter that has the libraries.
        windows: that are read (count).
        calibration_windows: that are calibrated on (count).
        peers: which; all if left out.

    Raises:
        PeerError: a program failed.
    """
    bench = Bench.of(source, windows, calibration_windows)
    for peer in peers:
        answer = run_peer(bench, peer, python)
        kl = window_kl(bench, answer)
        sample = bench.teacher.windows.sample()
        error = paired_error(kl, ours.get((peer.method, peer.num_bits, peer.symmetric)), sample)
        yield {
            "model": source.name, "method": peer.method, "implementation": peer.implementation,
            "num_bits": peer.num_bits, "group_size": peer.group_size, "symmetric": int(peer.symmetric),
            "kl": f"{kl.mean():.6g}", "kl_stderr": None if error is None else f"{error:.3g}",
            "seconds": f"{answer.seconds:.3g}", "peak_bytes": answer.peak_bytes,
        }  # fmt: skip


def paired_error(theirs: np.ndarray, ours: np.ndarray | None, sample: Sample | None = None) -> float | None:
    """Standard error of the mean difference; none without our row.

    Raises:
        PeerError: the two were not read on equally many windows.
    """
    if ours is None:
        return None
    if theirs.shape != ours.shape:
        raise PeerError(
            f"{theirs.shape[0]} windows of a peer", f"ours are {ours.shape[0]}", "Read the same windows"
        )
    return mean(theirs - ours, sample).stderr


def main() -> None:
    """Print the rows of the embedded model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has the libraries")
    parser.add_argument("--only", nargs="*", help="methods or libraries; all if left out")
    parser.add_argument(
        "--variants", action="store_true", help="settings that are not the libraries' defaults instead"
    )
    parser.add_argument("--windows", type=int, default=32, help="windows that are read (count)")
    parser.add_argument("--calibration-windows", type=int, default=64, help="windows of calibration (count)")
    arguments = parser.parse_args()
    offered = VARIANTS if arguments.variants else PEERS
    chosen = [p for p in offered if not arguments.only or {p.method, p.implementation} & set(arguments.only)]
    rows = peer_rows(
        sources(None)[0],
        {},
        arguments.python,
        windows=arguments.windows,
        calibration_windows=arguments.calibration_windows,
        peers=chosen,
    )
    for row in rows:
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
