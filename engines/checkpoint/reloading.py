"""What ``transformers`` computes from an export, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from engines.foreign_process import ended_by_others, last_word
from engines.predictions import Predictions
from spaces.errors import EngineError, EngineUnavailableError

_TIMEOUT_S = 1800


def reloaded_predictions(folder: Path, ids: torch.Tensor) -> Predictions:
    """Of the whole vocabulary; see :meth:`engines.engine.Engine.predictions`."""
    return Predictions.of_logits(reloaded_logits(folder, ids))


def reloaded_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Float32 logits ``(windows, tokens, vocabulary)`` by ``transformers`` in a fresh process.

    Raises:
        EngineUnavailableError: the process took too long, or somebody ended it.
        EngineError: it failed; carries the last line that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="paretune-reload-") as scratch:
        ids_file, out_file = Path(scratch) / "ids.npy", Path(scratch) / "logits.npy"
        np.save(ids_file, ids.to(torch.int64).cpu().numpy(), allow_pickle=False)
        command = [
            sys.executable,
            "-m",
            "engines.checkpoint.reload",
            str(folder),
            str(ids_file),
            str(out_file),
        ]
        try:
            done = subprocess.run(
                command, env=_environment(), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EngineUnavailableError(
                f"reloading {folder}", f"took longer than {_TIMEOUT_S} s", "Use fewer windows"
            ) from error
        if ended_by_others(done.returncode):
            raise EngineUnavailableError(
                f"reloading {folder}", f"was {last_word('', done.returncode)}", "Give it more memory or time"
            )
        if done.returncode or not out_file.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise EngineError(
                f"export {folder}",
                f"cannot be reloaded ({lines[-1][:300]})",
                "Export again; see the versions",
            )
        return torch.from_numpy(np.load(out_file, allow_pickle=False))


def _environment() -> dict[str, str]:
    """The same environment, with our packages importable and the hub out of reach."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
