"""Is the export the candidate? The engine loads it in a fresh process, and predictions are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from paretune.engines.engine import Engine
from paretune.engines.manifest import check_files
from paretune.engines.predictions import Predictions
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineAbsentError, EngineError, EngineUnavailableError, VerificationError

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler

LEAST_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 0.02
EXACT_TOLERANCE = 1e-5
"""Of engines that compute in float32 throughout."""
_ROUNDINGS = 1.5
"""So many times what rounding moves the candidate by, an engine that rounds elsewhere may differ from it."""


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


def default_tolerance(
    engine: Engine, config: CompressionConfig, compute: torch.dtype, kl_of_candidate: float
) -> float:
    """Nats a token: 1e-5 where both sides compute in float32, else ``max(1e-3, 2 %)`` of what the candidate lost."""
    if engine.computes_in_float32(config) and compute == torch.float32:
        return EXACT_TOLERANCE
    return max(LEAST_TOLERANCE, RELATIVE_TOLERANCE * kl_of_candidate)


def verify_export(
    engine: Engine,
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
        engine: that wrote the folder and loads it.
        assembler: of the searched model; is told to apply the candidate.
        config: of the candidate. The cache is left at 16 bits on both sides.
        folder: written by :meth:`paretune.engines.engine.Engine.export`.
        ids: int64 ``(windows, tokens)``, held-out text.
        kl_of_candidate: its KL to the dense model.
        tolerance: in nats; :func:`default_tolerance` if left out.

    Raises:
        EngineUnavailableError: the engine or its device is not here, took too long or was killed: nothing was compared.
        VerificationError: a file is not what the manifest says, the folder cannot be loaded, or it differs by
            more than the tolerance.
    """
    check_files(folder)
    if not (verdict := engine.here_ruling(assembler.spec, config)):
        raise EngineAbsentError(
            f"{engine.name} on {engine.here()}",
            f"does not run the export in {folder}: {verdict.reason}",
            f"Verify it where it will run: paretune verify {folder}",
        )
    model = _candidate(engine, assembler, config)
    allowed = (
        default_tolerance(engine, config, model.dtype, kl_of_candidate) if tolerance is None else tolerance
    )
    found = compare_predictions(model, predicted_by(engine, folder, ids), ids)
    moved_by = partial(rounding_divergence, model, ids) if tolerance is None else None
    return judged(engine, config, folder, found, allowed, moved_by)


def predicted_by(engine: Engine, folder: Path, ids: torch.Tensor) -> Predictions:
    """What an engine predicts; a folder that it refuses is not what was exported.

    Raises:
        EngineUnavailableError: the engine is not here, took too long or was killed.
        VerificationError: it refuses the folder.
    """
    try:
        return engine.predictions(folder, ids)
    except EngineUnavailableError:
        raise
    except EngineError as error:
        raise VerificationError(error.value, error.rule, error.remedy) from error


def judged(
    engine: Engine,
    config: CompressionConfig,
    folder: Path,
    found: Verification,
    allowed: float,
    moved_by: Callable[[torch.dtype], float] | None,
) -> Verification:
    """What was found, held against the tolerance.

    Args:
        engine: that loaded the export.
        config: of the candidate.
        folder: of the export.
        found: by comparing, with the cache at 16 bits.
        allowed: nats a token.
        moved_by: what rounding as in a dtype moves the candidate by, in nats a token: so much and half as much again is
            allowed in any case; ``None``: nothing is.

    Raises:
        VerificationError: it differs by more.
    """
    note = "" if config.kv.num_bits == 16 else f"compared with the cache at 16 bits, not {config.kv.name}"
    if moved_by is not None and found.kl > allowed:
        computed = torch.float32 if engine.computes_in_float32(config) else torch.bfloat16
        moved = moved_by(computed)
        allowed = max(allowed, _ROUNDINGS * moved)
        moving = (
            f"arithmetic in {str(computed).removeprefix('torch.')} alone moves the candidate by {moved:.3g}"
        )
        note = "; ".join(filter(None, (note, moving)))
    if not found.kl <= allowed:
        raise VerificationError(
            f"export {folder}",
            f"differs from the searched candidate by {found.kl:.3g} nats a token, {allowed:.3g} are allowed",
            "Do not deploy it; export again, and report this if it stays",
        )
    return replace(found, tolerance=allowed, note=note)


def compare_export(
    engine: Engine, assembler: Assembler, config: CompressionConfig, folder: Path, ids: torch.Tensor
) -> Verification:
    """What an engine predicts from a folder against the candidate; held against nothing.

    Args:
        engine: that loads the folder.
        assembler: of the searched model; is told to apply the candidate.
        config: of the candidate. The cache is left at 16 bits on both sides.
        folder: of an export.
        ids: int64 ``(windows, tokens)``.

    Raises:
        EngineError: the engine cannot load the folder, or does not run here.
    """
    exported = engine.predictions(folder, ids)
    return compare_predictions(_candidate(engine, assembler, config), exported, ids)


def _candidate(engine: Engine, assembler: Assembler, config: CompressionConfig) -> Any:
    """The model as an export for this engine has to predict."""
    executed = engine.executed_config(assembler.spec, config, engine.here())
    return assembler.apply(executed.replaced(kv=KVFormat()))


@torch.inference_mode()
def rounding_divergence(model: Any, ids: torch.Tensor, dtype: torch.dtype) -> float:
    """KL a token, in nats, of a candidate to itself where its modules' outputs are rounded as ``dtype`` rounds them.

    What no export can be told from the candidate below: an engine rounds at other places. It matters where inputs are
    rounded to 8 bits: a value at the edge of two codes falls either way, and every layer after it sees another input.
    Errors are drawn, uniform up to half a unit in the last place, so that a candidate in ``dtype`` is moved as well.

    Args:
        model: with the candidate in place; as it was afterwards.
        ids: int64 ``(windows, tokens)``.
        dtype: that the engine computes in.
    """
    half = torch.finfo(dtype).eps / 2
    generator = torch.Generator(model.device).manual_seed(0)

    def rounded(module: Any, given: Any, output: Any) -> Any:
        del module, given
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return output
        drawn = torch.rand(output.shape, generator=generator, device=output.device, dtype=torch.float32)
        return output + output * ((2.0 * drawn - 1.0) * half).to(output.dtype)

    total = 0.0
    for window in ids[:, None]:
        plain = Predictions.of_logits(model(input_ids=window.to(model.device), use_cache=False).logits.cpu())
        hooks = [module.register_forward_hook(rounded) for module in model.modules() if module is not model]
        try:
            total += compare_predictions(model, plain, window).kl
        finally:
            for hook in hooks:
                hook.remove()
    return total / len(ids)


@torch.inference_mode()
def compare_predictions(model: Any, exported: Predictions, ids: torch.Tensor) -> Verification:
    """What a loaded candidate predicts against what an engine predicted, window by window; held against nothing."""
    total = largest = same = 0.0
    for index, window in enumerate(ids):
        found = model(input_ids=window[None].to(model.device), use_cache=False).logits[0]
        searched = torch.log_softmax(found.to(torch.float32).cpu(), dim=-1)
        kl = exported.divergence(index, searched)
        total += float(kl.sum(dtype=torch.float64))
        largest = max(largest, float(kl.max()))
        same += float((searched.argmax(dim=-1) == exported.most_likely(index)).sum())
    tokens = ids.numel()
    return Verification(total / tokens, largest, same / tokens, float("inf"), tokens)
