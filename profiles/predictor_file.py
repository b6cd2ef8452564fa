"""``predictor.json``: what a run predicts times from, so that a search which goes on predicts the same times.

Whole models are timed once a run folder. Timed again, they would take other times, and candidates that were read
before a search was killed would stand beside others whose times come from another fit.
"""

from __future__ import annotations

from pydantic import Field

from paretune.profiles.overhead import Overhead
from paretune.profiles.predictor import MeasuredRun
from paretune.spaces.schema import Document, sha256_of
from paretune.spaces.target import Workload


class PredictorFile(Document):
    """The whole models that were timed, and what was fitted to them.

    Attributes:
        engine, engine_version, device, workload: what was timed, where and at what.
        operations: digest of the timed operations that the fit stands on; empty where no operation is timed alone.
        runs: whole models.
        overheads: by metric, of :class:`paretune.profiles.predictor.Predictor`.
        rates: by metric, of :class:`paretune.profiles.format_predictor.FormatPredictor`: place, format, seconds.
        errors: of these rates on mixtures that the fit did not see, by metric.
    """

    engine: str
    engine_version: str
    device: str
    workload: Workload
    operations: str = ""
    runs: tuple[MeasuredRun, ...]
    overheads: dict[str, Overhead] = Field(default_factory=dict)
    rates: dict[str, tuple[tuple[str, str, float], ...]] = Field(default_factory=dict)
    errors: dict[str, float] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: same digest, same predictions."""
        return sha256_of(self.model_dump(mode="json"))

    def made_for(self, other: PredictorFile) -> bool:
        """Whether both stand on the same engine, device, workload and operations."""
        keys = ("engine", "engine_version", "device", "workload", "operations")
        return all(getattr(self, key) == getattr(other, key) for key in keys)
