"""What a peer program is asked and what it answers: files of one folder, the same for every library.

In: ``job.json`` (:class:`Job`) and ``windows.safetensors`` (int64 ``calibration`` and ``benchmark``).
Out: ``result.json`` (seconds, peak_bytes, version, and ``kl`` a window where the program compared itself) and
``weights.safetensors`` (float32, by parameter name: every parameter that is no longer the dense one).
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Job:
    """One method at one width.

    Attributes:
        model: folder in Hugging Face format.
        package: distribution whose version is reported.
        method: word of ``compression.csv`` or criterion of ``pruning.csv``.
        linears: module paths of the linears inside the blocks; nothing else is quantized.
        num_bits: width of the codes.
        group_size: inputs that share a scale.
        symmetric: whether there are no zero points.
        options: of this library alone.
    """

    model: str
    package: str
    method: str
    linears: tuple[str, ...]
    num_bits: int
    group_size: int
    symmetric: bool
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, calibration: torch.Tensor, benchmark: torch.Tensor) -> None:
        """Put the job and its windows, int64 ``(windows, tokens)``, into ``folder``."""
        (folder / "job.json").write_text(json.dumps(asdict(self)), encoding="utf-8")
        tensors = {"calibration": calibration.contiguous(), "benchmark": benchmark.contiguous()}
        save_file(tensors, folder / "windows.safetensors")


@dataclass
class Model:
    """The dense model of a job, in float32, and the windows."""

    job: Job
    network: Any
    calibration: torch.Tensor
    benchmark: torch.Tensor

    def linear(self, name: str) -> Any:
        """A module by its path."""
        return self.network.get_submodule(name)

    def samples(self) -> Any:
        """The calibration windows one by one, every position attended to, as libraries take them."""
        return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in self.calibration]


def answer(work: Callable[[Model], Any]) -> None:
    """Do ``work`` on the job in the folder named on the command line.

    ``work`` changes the network's parameters, or returns a mapping of new ones by name, or a list of divergences,
    one a window.
    """
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    job = Job(**{**asked, "linears": tuple(asked["linears"])})
    windows = load_file(folder / "windows.safetensors")
    model = Model(job, load(job.model), windows["calibration"], windows["benchmark"])
    dense = {name: value.detach().clone() for name, value in model.network.named_parameters()}
    result, seconds, peak = measured(lambda: work(model))
    answered: dict[str, Any] = {"seconds": seconds, "peak_bytes": peak, "version": version(job.package)}
    if isinstance(result, list):
        answered["kl"] = result
    else:
        found = result if isinstance(result, dict) else dict(model.network.named_parameters())
        save_file(_changed(dense, found), folder / "weights.safetensors")
    (folder / "result.json").write_text(json.dumps(answered), encoding="utf-8")


def load(folder: str) -> Any:
    """The model in float32, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    network.config.use_cache = False
    return network.eval()


def _changed(dense: dict[str, torch.Tensor], found: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters of the dense model whose values are other ones now."""
    values = {name: found[name].detach().to(torch.float32) for name in dense if name in found}
    here = {k: v.cpu() for k, v in values.items()}  # a library may leave its model on an accelerator
    return {k: v.contiguous().clone() for k, v in here.items() if not torch.equal(v, dense[k].cpu())}


def measured(work: Callable[[], Any]) -> tuple[Any, float, int | None]:
    """Result, seconds, and what the process grew by at its peak (Linux only)."""
    gc.collect()
    status = Path("/proc/self/status")
    if status.exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = _memory(status, "VmRSS"), time.perf_counter()
    result = work()
    seconds, peak = time.perf_counter() - start, _memory(status, "VmHWM")
    return result, seconds, None if before is None or peak is None else max(0, peak - before)


def _memory(status: Path, key: str) -> int | None:
    if not status.exists():
        return None
    line = next(x for x in status.read_text(encoding="ascii").splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024
