"""What ``paretune transform`` does: texts, the change itself, the folder, and what proves it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune import demo
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.documents import read_documents
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.transforms import Transform, Transformed, find_transform
from paretune.compressors.transforms.checkpoint import write_model
from paretune.compressors.transforms.preservation import Preservation, preservation, tolerance
from paretune.compressors.windows import TokenWindows, lay_out
from paretune.pipeline.models import EMBEDDED, model_folder
from paretune.pipeline.progress import Stages
from paretune.pipeline.texts import check_context
from paretune.spaces.architectures import read_model
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import BrokenCandidateError, TextError, UnknownNameError
from paretune.spaces.files import write_json, written_whole
from paretune.spaces.measurement import Measurement
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import find_choice
from paretune.spaces.statistics import Difference, difference

METHODS = ("smoothquant", "hadamard")
"""Transforms that help; the registry has one more, which makes outliers for tests and benchmarks."""
DTYPES = ("float32", "bfloat16", "float16")
EIGHT_BITS = "w8a8-static"
"""The format whose KL is told before and after: one calibrated scale a layer suffers most from outliers."""
NOTE = "transform.json"
_SEED = 0


@dataclass(frozen=True)
class TransformTexts:
    """What a transformation is measured and compared on; the two share no token.

    Attributes:
        calibration: for statistics; ``None`` where there is no text.
        check: that both models are read on: of the same text, or random tokens where there is none.
    """

    calibration: TokenWindows | None
    check: TokenWindows


@dataclass(frozen=True)
class EightBits:
    """KL to the original with every linear inside the blocks in :data:`EIGHT_BITS`, in nats a token.

    Attributes:
        before: of the original.
        after: of the transformed model.
        gained: the difference, paired by window.
    """

    before: float
    after: float
    gained: Difference

    @classmethod
    def of(cls, before: Measurement, after: Measurement) -> EightBits:
        """From both readings."""
        return cls(before.value, after.value, difference(before, after))

    @property
    def helped(self) -> bool:
        """Whether the transformed model is clearly better."""
        return self.gained.clear and self.gained.value > 0


@dataclass(frozen=True)
class TransformResult:
    """What came of it.

    Attributes:
        done: places and strengths.
        preserved: the stored model, loaded again, beside the original.
        eight_bits: what 8 bits cost before and after; ``None`` without a calibration text.
        said: of the request, for :meth:`document`.
    """

    done: Transformed
    preserved: Preservation
    eight_bits: EightBits | None
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def helped(self) -> bool:
        """Whether it is the better start; where it is no help, nothing of the original was rounded once more."""
        return self.eight_bits is None or self.eight_bits.helped

    def document(self) -> dict[str, Any]:
        """As JSON; ``null`` as a strength: the place was left as it was."""
        strengths = {
            name: None if math.isnan(value) else value for name, value in self.done.strengths.items()
        }
        found = self.eight_bits
        eight_bits = found and {
            "format": EIGHT_BITS, "kl_before": found.before, "kl_after": found.after,
            "difference": found.gained.value, "stderr_of_difference": found.gained.stderr, "helped": found.helped,
        }  # fmt: skip
        return {
            **self.said,
            "kl": self.preserved.kl,
            "tolerance": self.preserved.tolerance,
            "top1_agreement": self.preserved.top1_agreement,
            "dtype": str(self.preserved.dtype).removeprefix("torch."),
            "tied": self.done.spec.tied,
            "eight_bits": eight_bits,
            "strengths": strengths,
            "left": self.done.left,
        }


@dataclass(frozen=True)
class TransformRequest:
    """What is transformed, how and where to; see :func:`paretune.transform`."""

    model: str
    out: Path
    method: str
    texts: tuple[Path, ...] = ()
    windows: int = 64
    window_tokens: int = 256
    dtype: str | None = None
    revision: str | None = None


def transform_folder(request: TransformRequest, stages: Stages) -> TransformResult:
    """Write the transformed model into a folder that appears when it was loaded again and is the same model.

    Raises:
        UnknownNameError: no such method or dtype.
        TextError: no text where one is needed, or one that is too short.
        ModelError: the model's structure does not allow it.
        VerificationError: the stored model is not the original.
    """
    for kind, name, known in (("method", request.method, METHODS), ("dtype", request.dtype, DTYPES)):
        if name is not None and name not in known:
            raise UnknownNameError(kind, name, known)
    chosen, texts = find_transform(request.method), request.texts
    if request.model == EMBEDDED and not texts:
        texts = (demo.TEXTS / "calibration.txt",)
    if chosen.needs_windows and not texts:
        raise TextError(
            f"no text for {request.model}",
            f"{chosen.name} measures inputs on a calibration text",
            "Give --text FILE, the calibration text of the search to come",
        )
    with written_whole(request.out) as partial:
        source = model_folder(request.model, request.revision)
        spec = read_model(source, source=request.model, revision=request.revision)
        found = read_transform_texts(source, spec, texts, request.windows, request.window_tokens)
        stored: torch.dtype = getattr(torch, request.dtype or spec.dtype)
        result = transform_model(chosen, spec, source, partial, found, stored, stages)
        said = {
            "model": request.model, "revision": request.revision, "method": request.method,
            "version": chosen.version, "compared_on": "text" if texts else "random tokens", "windows": request.windows,
            "window_tokens": request.window_tokens, "untied": spec.tied and not result.done.spec.tied,
        }  # fmt: skip
        result = replace(result, said=said)
        write_json(partial / NOTE, result.document())
    return result


def read_transform_texts(
    folder: Path, spec: ModelSpec, texts: Sequence[Path], windows: int, window_tokens: int
) -> TransformTexts:
    """``windows`` of the texts for statistics and as many others to compare on.

    Args:
        folder: of the model and its tokenizer.
        spec: of the model.
        texts: one after the other; none: random tokens to compare on, for what holds on any input.
        windows: of each of the two (count).
        window_tokens: length of a window.

    Raises:
        TextError: unreadable or too short texts; windows longer than the model's context.
    """
    check_context(window_tokens, spec)
    if not texts:
        generator = torch.Generator().manual_seed(_SEED)
        ids = torch.randint(0, spec.vocabulary, (windows, window_tokens), generator=generator)
        return TransformTexts(None, TokenWindows.of(ids, "check"))
    documents = [document for path in texts for document in read_documents(path)]
    laid_out, owners = lay_out(load_tokenizer(folder), documents, window_tokens)
    if len(laid_out) < 2 * windows:
        raise TextError(
            f"text {', '.join(map(str, texts))}",
            f"holds {len(laid_out)} windows of {window_tokens} tokens; {windows} to calibrate on and {windows} to "
            "compare on are needed",
            f"Give a longer text, or --windows {len(laid_out) // 2}"
            if len(laid_out) > 1
            else "Give a longer text",
        )
    drawn = np.random.default_rng(_SEED).permutation(len(laid_out))[: 2 * windows]

    def half(places: np.ndarray, text: str) -> TokenWindows:
        whose = owners[places].tolist() if len(owners) else ()
        return TokenWindows.of(torch.from_numpy(laid_out[places]), text, whose)

    return TransformTexts(half(drawn[:windows], "calibration"), half(drawn[windows:], "check"))


def transform_model(
    transform: Transform,
    spec: ModelSpec,
    source: Path,
    folder: Path,
    texts: TransformTexts,
    dtype: torch.dtype,
    stages: Stages,
) -> TransformResult:
    """Write the transformed model into ``folder``, which must be empty, load it again and compare.

    One whole model in float32 is in memory at a time, and the original's predictions.

    Args:
        transform: to apply.
        spec: of the original.
        source: its folder.
        folder: to write.
        texts: to measure and to compare on.
        dtype: of the stored weights.
        stages: told what is done.

    Raises:
        ModelError: the model's structure does not allow it, or nothing can be written.
        VerificationError: the stored model is not the original.
    """
    with stages.stage("load", "loading the model"):
        model = load_dense(source, spec)
        transform.require_possible(model, spec)
    with stages.stage("read", "reading the original"):
        teacher = Teacher(model, texts.check)
        before = _eight_bit_kl(model, spec, source, folder, teacher, texts)
    with stages.stage("transform", f"transforming by {transform.name}"):
        done = transform.apply(model, spec, texts.calibration)
        write_model(model, done.spec, source, folder, dtype)
        del model
    with stages.stage("check", "loading it again and comparing"):
        allowed = tolerance(load_dense(source, spec), teacher, dtype)
        preserved, after = _compared(spec, folder, teacher, texts, allowed, dtype)
    told = None if before is None or after is None else EightBits.of(before, after)
    return TransformResult(done, preserved, told)


def _compared(
    spec: ModelSpec,
    folder: Path,
    teacher: Teacher,
    texts: TransformTexts,
    allowed: float,
    dtype: torch.dtype,
) -> tuple[Preservation, Measurement | None]:
    """What is stored, held against the original, and its KL in 8 bits by window.

    Raises:
        VerificationError: it is another model.
    """
    stored_spec = read_model(folder)
    stored = load_dense(folder, stored_spec)
    found = preservation(stored, teacher, allowed, dtype)
    found.require(spec.source)
    return found, _eight_bit_kl(stored, stored_spec, folder, folder, teacher, texts)


def _eight_bit_kl(
    model: Any, spec: ModelSpec, source: Path, scratch: Path, teacher: Teacher, texts: TransformTexts
) -> Measurement | None:
    """KL of the original to ``model`` with every linear inside the blocks in 8 bits, as a search scores it.

    The model is as it was afterwards. ``None`` without a calibration text, from which a static scale would come, and
    where 8 bits break the model.
    """
    if texts.calibration is None:
        return None
    choice = find_choice(EIGHT_BITS)
    config = CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})
    with tempfile.TemporaryDirectory(prefix=".bank-", dir=scratch) as bank_folder:
        bank = Bank.open(Path(bank_folder), source, model, spec, model_hash(source), texts.calibration)
        assembler = Assembler(model, spec, bank)
        try:
            found = teacher.compare(assembler.apply(config))
        except BrokenCandidateError:
            return None
        finally:
            assembler.apply(DENSE_CONFIG)
    return found.measurements()["kl"]
