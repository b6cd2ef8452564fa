"""What a recipe program is asked and what it answers: files of one folder, the same for every tool.

In: ``job.json`` (:class:`Job`), the recipe, and ``windows.safetensors`` (int64 ``calibration``, windows by tokens).
Out: ``result.json`` (version, ``formats`` by module path) and ``weights.safetensors`` (what each linear, embedding and
head computes with, float32, by module path).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Format:
    """What a tool says that it made of a module; no format where it left the module alone.

    Attributes:
        bits: of a weight.
        number_type: ``int`` or ``float``.
        group_size: consecutive weights of a row under one scale; ``None``: all of them.
        block_rows: rows that share it; 0: all.
        symmetric: whether there is no zero point.
        input_bits: of the module's input; ``None`` where it is not rounded.
    """

    bits: int
    number_type: str
    group_size: int | None
    symmetric: bool
    block_rows: int = 1
    input_bits: int | None = None


@dataclass(frozen=True)
class Job:
    """One recipe for one model.

    Attributes:
        model: folder in Hugging Face format.
        package: distribution of the tool, whose version is reported.
        recipe: name of the recipe's file in the job's folder.
        modules: paths of every linear, embedding and head.
    """

    model: str
    package: str
    recipe: str
    modules: tuple[str, ...]

    def write(self, folder: Path, text: str, calibration: torch.Tensor) -> None:
        """Put the job, its recipe and its windows, int64 ``(windows, tokens)``, into ``folder``."""
        (folder / "job.json").write_text(json.dumps(asdict(self)), encoding="utf-8")
        (folder / self.recipe).write_text(text, encoding="utf-8")
        save_file({"calibration": calibration.contiguous()}, folder / "windows.safetensors")


@dataclass
class Work:
    """A job with its recipe and windows; the model is loaded by whoever wants it."""

    job: Job
    folder: Path
    calibration: torch.Tensor

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return self.folder / self.job.recipe

    def samples(self) -> list[dict[str, torch.Tensor]]:
        """The calibration windows one by one, every position attended to."""
        return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in self.calibration]

    def network(self, dtype: torch.dtype = torch.float32) -> Any:
        """The dense model, in evaluation mode."""
        from transformers import AutoModelForCausalLM

        found = AutoModelForCausalLM.from_pretrained(self.job.model, dtype=dtype, local_files_only=True)
        found.config.use_cache = False
        return found.eval()


Answer = tuple[dict[str, Format], dict[str, torch.Tensor]]
"""Formats of the modules that have one, and weights of all, by module path."""


def answer(run: Callable[[Work], Answer]) -> None:
    """Run the recipe of the folder named on the command line."""
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    job = Job(**{**asked, "modules": tuple(asked["modules"])})
    calibration = load_file(folder / "windows.safetensors")["calibration"]
    formats, weights = run(Work(job, folder, calibration))
    plain = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in weights.items()}
    save_file({name: value.clone() for name, value in plain.items()}, folder / "weights.safetensors")
    told = {"version": version(job.package), "formats": {name: asdict(one) for name, one in formats.items()}}
    (folder / "result.json").write_text(json.dumps(told), encoding="utf-8")
