"""Is the export the candidate? ``transformers`` loads it in a fresh process, and predictions are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engines.checkpoint import MANIFEST, sha256_of_file
from spaces.cache_format import KVFormat
from spaces.configuration import CompressionConfig
from spaces.errors import EngineError, VerificationError

if TYPE_CHECKING:
    from compressors.assembly import Assembler

LEAST_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 0.02
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Verification:
    """What comparing found.

    Attributes:
        kl: mean KL(candidate || export) per token, in nats.
        kl_largest: of the worst token.
        top1_agreement: share of tokens with the same most likely prediction.
        tolerance: that ``kl`` was held against.
        tokens: compared.
        note: what the comparison left out, empty if nothing.
    """

    kl: float
    kl_largest: float
    top1_agreement: float
    tolerance: float
    tokens: int
    note: str = ""


def default_tolerance(kl_of_candidate: float) -> float:
    """``max(1e-3, 2 %)`` of what the candidate itself lost."""
    return max(LEAST_TOLERANCE, RELATIVE_TOLERANCE * kl_of_candidate)


def verify_export(
    assembler: Assembler,
    config: CompressionConfig,
    folder: Path,
    ids: torch.Tensor,
    *,
    kl_of_candidate: float = 0.0,
    tolerance: float | None = None,
) -> Verification:
    """Compare the export in ``folder`` with the candidate that it was made from.

    Args:
        assembler: of the searched model; is told to apply the candidate.
        config: of the candidate. A cache of 8 bits is left out on both sides: ``transformers`` keeps 16.
        folder: written by :func:`engines.checkpoint.write_checkpoint`.
        ids: int64 ``(windows, tokens)``, held-out text.
        kl_of_candidate: its KL to the dense model.
        tolerance: in nats; :func:`default_tolerance` if left out.

    Raises:
        VerificationError: a file is not what the manifest says, the folder cannot be loaded, or it differs by
            more than the tolerance.
    """
    check_files(folder)
    allowed = default_tolerance(kl_of_candidate) if tolerance is None else tolerance
    note = "" if config.kv.num_bits == 16 else f"compared with the cache at 16 bits, not {config.kv.name}"
    try:
        exported = reloaded_logits(folder, ids)
    except EngineError as error:
        raise VerificationError(error.value, error.rule, error.remedy) from error
    found = _compare(assembler.apply(config.replaced(kv=KVFormat())), exported, ids, allowed, note)
    if not found.kl <= allowed:
        raise VerificationError(
            f"export {folder}",
            f"differs from the searched candidate by {found.kl:.3g} nats a token, {allowed:.3g} are allowed",
            "Do not deploy it; export again, and report this if it stays",
        )
    return found


def check_files(folder: Path) -> None:
    """Compare every file with the hash in ``paretune.json``.

    Raises:
        VerificationError: a file is absent or another, or there is no manifest.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise VerificationError(
            f"export {folder}", f"has no readable {MANIFEST}", "Export again; it is written last"
        ) from error
    for name, digest in files.items():
        file = folder / Path(name).name
        if not file.is_file() or sha256_of_file(file) != digest:
            raise VerificationError(
                f"file {file}", f"is absent or not what {MANIFEST} says", "Copy the export again"
            )


def reloaded_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Float32 logits ``(windows, tokens, vocabulary)`` by ``transformers`` in a fresh process.

    Raises:
        EngineError: the process failed; carries the last line that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="paretune-reload-") as scratch:
        ids_file, out_file = Path(scratch) / "ids.npy", Path(scratch) / "logits.npy"
        np.save(ids_file, ids.to(torch.int64).cpu().numpy(), allow_pickle=False)
        command = [sys.executable, "-m", "engines.reload", str(folder), str(ids_file), str(out_file)]
        try:
            done = subprocess.run(
                command, env=_environment(), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EngineError(
                f"reloading {folder}", f"took longer than {_TIMEOUT_S} s", "Use fewer windows"
            ) from error
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
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


@torch.inference_mode()
def _compare(
    model: Any, exported: torch.Tensor, ids: torch.Tensor, tolerance: float, note: str
) -> Verification:
    total = largest = same = 0.0
    for window, logits in zip(ids, exported, strict=True):
        found = model(input_ids=window[None].to(model.device), use_cache=False).logits[0]
        searched = torch.log_softmax(found.to(torch.float32).cpu(), dim=-1)
        theirs = torch.log_softmax(logits, dim=-1)
        kl = torch.linalg.vecdot(searched.exp(), searched - theirs).clamp_min_(0.0)
        total += float(kl.sum(dtype=torch.float64))
        largest = max(largest, float(kl.max()))
        same += float((searched.argmax(dim=-1) == theirs.argmax(dim=-1)).sum())
    tokens = ids.numel()
    return Verification(total / tokens, largest, same / tokens, tolerance, tokens, note)
