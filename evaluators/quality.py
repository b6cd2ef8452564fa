"""Quality of a candidate on token windows: KL to the dense model, its tail, top-1 agreement, perplexity.

The arithmetic is :mod:`paretune.compressors.divergence`'s; here are the cache that makes rungs nested prefixes (a
longer reading pays only for its new windows) and the door that search knocks at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from paretune.compressors.prefix import block_signatures
from paretune.evaluators.execution import Executed, as_stored
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import RunError, UnknownNameError
from paretune.spaces.measurement import Fidelity, Measurement

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.comparison import Divergence
    from paretune.compressors.divergence import Teacher

_REMEMBERED = 256
"""Readings kept: one is 8 bytes a token, and search comes back only to candidates that it read lately."""


class QualityEvaluator:
    """The :class:`paretune.spaces.evaluator.Evaluator` of quality.

    Args:
        assembler: makes the candidate.
        teachers: the dense model's predictions by name of the text.
        executed: the candidate as the engine computes it on the device; as it is stored if left out.
    """

    name = "quality"
    version = "1"
    metrics = ("kl", "kl_p99", "top1_agreement", "perplexity")

    def __init__(
        self, assembler: Assembler, teachers: Mapping[str, Teacher], executed: Executed = as_stored
    ) -> None:
        self._assembler = assembler
        self._teachers = dict(teachers)
        self._executed = executed
        self._read: OrderedDict[tuple[str, str], Divergence] = OrderedDict()

    def of(self, assembler: Assembler) -> QualityEvaluator:
        """The same texts read with the candidates of another assembler."""
        return QualityEvaluator(assembler, self._teachers, self._executed)

    @property
    def mode(self) -> str:
        """``full``, or ``top-K`` where a teacher keeps only the likeliest tokens."""
        return ", ".join(dict.fromkeys(teacher.mode for teacher in self._teachers.values()))

    def evaluate(self, config: CompressionConfig, fidelity: Fidelity) -> Mapping[str, Measurement]:
        """Read the first windows of a text with the candidate, as many as the fidelity says.

        Raises:
            UnknownNameError: no such text.
            TextError: the text has fewer windows.
            BrokenCandidateError: predictions are not finite: the candidate has no quality, and is marked by who asked.
        """
        return self.divergence(config, fidelity).measurements(by=f"{self.name}/{self.version}")

    def divergence(self, config: CompressionConfig, fidelity: Fidelity) -> Divergence:
        """The same with the values of every token."""
        teacher = self._teachers.get(fidelity.text)
        if teacher is None:
            raise UnknownNameError("text", fidelity.text, self._teachers)
        key = (config.digest, fidelity.text)
        found = self._read.get(key)
        known = 0 if found is None else found.windows
        if found is None or known < fidelity.windows:
            fresh = self._fresh(teacher, config, known, fidelity.windows)
            found = fresh if found is None else found.joined(fresh)
        self._remember(key, found)
        return found if found.windows == fidelity.windows else found.first(fidelity.windows)

    def _fresh(self, teacher: Teacher, config: CompressionConfig, start: int, stop: int) -> Divergence:
        """Windows that were not read yet; where a device's memory ends, with fewer weights kept on it.

        Raises:
            RunError: it is not enough with none.
        """
        import torch

        executed = self._executed(config)
        signatures = block_signatures(self._assembler.spec, executed)
        while True:
            try:
                model = self._assembler.apply(executed)
                return teacher.compare(model, windows=stop, start=start, signatures=signatures)
            except torch.OutOfMemoryError as error:
                if not self._assembler.free():
                    raise RunError(
                        f"a reading of {stop - start} windows on {self._assembler.model.device}",
                        "ends its memory, with nothing kept there but the model, its bank and its texts",
                        "Use a smaller memory_budget_bytes, fewer or shorter windows, or compute_dtype: float16",
                    ) from error
            torch.cuda.empty_cache()

    def _remember(self, key: tuple[str, str], reading: Divergence) -> None:
        self._read[key] = reading
        self._read.move_to_end(key)
        while len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)
