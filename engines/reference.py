"""Reference predictions: what the searched candidate predicts, kept in its export.

Whoever has the export alone, a server say, can tell by them whether an engine there runs the candidate. They are the
candidate's own, not an engine's, so they are written wherever it was searched. The text that they were read on is in
them as token ids.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paretune.engines.canary import REFERENCE, add_listed
from paretune.engines.manifest import check_files, manifest_config, read_manifest
from paretune.engines.predictions import Predictions
from paretune.engines.verification import (
    Verification,
    default_tolerance,
    judged,
    predicted_by,
    rounding_divergence,
)
from paretune.spaces.errors import RunError, VerificationError
from paretune.spaces.files import FileKind, read_bytes

if TYPE_CHECKING:
    from paretune.engines.engine import Engine
    from paretune.spaces.configuration import CompressionConfig

WINDOWS, TOKENS, TOP = 64, 128, 16
"""Of the report text, of each window, log-probabilities of each token: a megabyte."""
_ROUNDED_WINDOWS = 8
_LEAST = 1e-12
_FILE = FileKind("reference predictions", VerificationError, "Copy the export again")


@dataclass(frozen=True)
class Reference:
    """What the candidate predicts.

    Attributes:
        ids: int64 ``(windows, tokens)``.
        predictions: of the likeliest tokens.
        compute: torch dtype that it was computed in, by name.
        device: registered name of the device whose arithmetic it is.
        rounding: by dtype of an engine, the nats a token that rounding alone moves the candidate by.
    """

    ids: torch.Tensor
    predictions: Predictions
    compute: str
    device: str
    rounding: dict[str, float]


@torch.inference_mode()
def add_reference(
    folder: Path, model: Any, config: CompressionConfig, ids: torch.Tensor, device: str
) -> None:
    """Write reference predictions into a finished export and list them in its manifest.

    Args:
        folder: of the export.
        model: the candidate as the device computes it, with a cache of 16 bits.
        config: of the candidate.
        ids: int64 ``(windows, tokens)``, held-out text; as much of it as is kept.
        device: registered name of the device.
    """
    ids = ids[:WINDOWS, :TOKENS].to("cpu", torch.int64)
    values, tokens = [], []
    for window in ids:
        logits = model(input_ids=window[None].to(model.device), use_cache=False).logits[0]
        found = torch.log_softmax(logits.to(torch.float32), dim=-1)
        best = found.topk(min(TOP, found.shape[-1]), dim=-1)
        values.append(best.values.cpu())
        tokens.append(best.indices.to("cpu", torch.int32))
    # Rounded inputs fall to another code at an edge whatever an engine computes in; weights alone do not.
    dtypes = [torch.bfloat16, *([torch.float32] if any(c.activation for c in config.layers.values()) else [])]
    said = {
        "compute": _name(model.dtype),
        "device": device,
        "rounding": {_name(x): rounding_divergence(model, ids[:_ROUNDED_WINDOWS], x) for x in dtypes},
    }
    content = io.BytesIO()
    np.savez(
        content, ids=ids.to(torch.int32).numpy(), log_probabilities=torch.stack(values).numpy(),
        tokens=torch.stack(tokens).numpy(), said=np.array(json.dumps(said)),
    )  # fmt: skip
    add_listed(folder, REFERENCE, content.getvalue())


def has_reference(folder: Path) -> bool:
    """Whether an export lists reference predictions."""
    return REFERENCE in read_manifest(folder)["files"]


def read_reference(folder: Path) -> Reference:
    """The reference predictions of an export.

    Raises:
        RunError: it has none.
        VerificationError: they cannot be read.
    """
    file = folder / REFERENCE
    if not has_reference(folder):
        raise RunError(f"export {folder}", "has no reference predictions", "Name its run with --run")
    try:
        with np.load(io.BytesIO(read_bytes(file, _FILE)), allow_pickle=False) as found:
            ids, values, tokens = (
                torch.from_numpy(found[name]) for name in ("ids", "log_probabilities", "tokens")
            )
            said = json.loads(str(found["said"]))
        if not (ids.ndim == 2 and values.ndim == 3 and ids.shape == values.shape[:2]):
            raise _FILE.refusal(file, "has arrays of other shapes")
        predictions = Predictions(values, tokens.to(torch.int64))
        return Reference(ids.to(torch.int64), predictions, said["compute"], said["device"], said["rounding"])
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise _FILE.refusal(file, f"cannot be read ({type(error).__name__})") from error


def verify_alone(engine: Engine, folder: Path, windows: int) -> Verification:
    """Compare what an engine makes of an export with the reference predictions in it.

    Args:
        engine: that loads it.
        folder: of the export.
        windows: that are read (count), at most those that there are.

    Raises:
        RunError: it has no reference predictions.
        EngineUnavailableError: the engine is not here, took too long or was killed: nothing was compared.
        VerificationError: a file is not what the manifest says, the folder cannot be loaded, or it differs by more
            than the tolerance.
    """
    check_files(folder)
    manifest, kept = read_manifest(folder), read_reference(folder)
    config = manifest_config(manifest, folder)
    count = min(windows, len(kept.ids))
    kl = float((manifest.get("figures") or {}).get("kl") or 0.0)
    allowed = default_tolerance(engine, config, getattr(torch, kept.compute), kl)
    found = divergence_from(kept, predicted_by(engine, folder, kept.ids[:count]))
    return judged(engine, config, folder, found, allowed, lambda dtype: kept.rounding.get(_name(dtype), 0.0))


def divergence_from(kept: Reference, found: Predictions) -> Verification:
    """KL(candidate || engine) from below: over the tokens that both name, and buckets for what is left.

    Tokens that the engine does not name are one bucket, to which it gives no more than it leaves unnamed; of all that
    it may give them, what makes the divergence least is taken. Held against nothing.
    """
    total = largest = same = 0.0
    windows = len(found.log_probabilities)
    for index in range(windows):
        tokens = kept.predictions.ids[index]  # type: ignore[index]  # always named, see add_reference
        ours, theirs = (
            kept.predictions.log_probabilities[index].double(),
            found.log_probabilities[index].double(),
        )
        if found.ids is None:
            named, unnamed = torch.ones_like(tokens, dtype=torch.bool), torch.zeros(len(tokens)).double()
            given = theirs.gather(-1, tokens)
        else:
            match = tokens.unsqueeze(-1) == found.ids[index].unsqueeze(-2)
            named, unnamed = match.any(-1), 1.0 - theirs.exp().sum(-1)
            given = torch.where(match, theirs.unsqueeze(-2), -torch.inf).amax(-1)
        p = ours.exp()
        shared = torch.where(named, p * (ours - given), 0.0).sum(-1)
        only_ours = torch.where(named, 0.0, p).sum(-1)
        rest = (1.0 - p.sum(-1)).clamp_min(_LEAST)
        left = (1.0 - torch.where(named, given.exp(), 0.0).sum(-1)).clamp_min(_LEAST)
        most = torch.minimum(left * only_ours / (only_ours + rest), unnamed).clamp_min(_LEAST)
        shared += torch.where(only_ours > 0.0, only_ours * (only_ours.clamp_min(_LEAST) / most).log(), 0.0)
        left = torch.where(only_ours > 0.0, left - most, left).clamp_min(_LEAST)
        kl = (shared + rest * (rest / left).log()).clamp_min(0.0)
        total, largest = total + float(kl.sum()), max(largest, float(kl.max()))
        same += float((found.most_likely(index) == tokens[:, 0]).sum())
    count = windows * found.log_probabilities.shape[1]
    return Verification(total / count, largest, same / count, float("inf"), count)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
