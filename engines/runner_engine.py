"""Engines that run one file by a program that stands alone: predicted and timed as a whole, never kernel by kernel."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.engine import Engine
from paretune.engines.environments import Environment, find_environment
from paretune.spaces.errors import EngineAbsentError, EngineError
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    import torch

    from paretune.engines.predictions import Predictions


@dataclass(frozen=True)
class ExportTimes:
    """What an export took, by repetition.

    Attributes:
        ttft_s: from the prompt to the first token.
        tpot_s: each further token.
    """

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]


class RunnerEngine(Engine):
    """Its runner takes requests of the tasks ``predict`` and ``time``."""

    @property
    @abstractmethod
    def install(self) -> str:
        """In words, how to get it where it is not found."""

    def version(self) -> str:
        """Of the package that carries the engine.

        Raises:
            EngineError: it is not installed.
        """
        return self._environment().version

    def _environment(self) -> Environment:
        found = find_environment(self.name)
        if found is None:
            raise EngineAbsentError(self.name, "is not installed where we look", self.install)
        return found

    @abstractmethod
    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Hand a request to the runner in the engine's environment.

        Raises:
            EngineError: the engine is absent, or refuses.
        """

    @abstractmethod
    def model_file(self, folder: Path) -> Path:
        """What the runner loads of an export."""

    def serving(self, folder: Path) -> dict[str, Any]:
        """Fields of a request that make the runner serve the export as its launch line does."""
        del folder
        return {}

    def predictions(self, folder: Path, ids: torch.Tensor) -> Predictions:
        """See :meth:`Engine.predictions`; of the whole vocabulary up to 1 GiB, else the likeliest tokens."""
        return self._predictions(folder, ids, {})

    def served_predictions(self, folder: Path, ids: torch.Tensor) -> Predictions:
        """See :meth:`Engine.served_predictions`."""
        return self._predictions(folder, ids, self.serving(folder))

    def time_export(self, folder: Path, workload: Workload, repetitions: int = 3) -> ExportTimes:
        """Generate at the workload so often, after a warm-up, in a fresh process.

        Raises:
            EngineError: the workload has several sequences at once, which the runner does not decode.
        """
        if workload.batch != 1:
            raise EngineError(
                f"a batch of {workload.batch}",
                f"is not timed by the runner of {self.name}, which decodes one sequence",
                "Use batch=1, or leave limits and objectives on time out",
            )
        asked = {
            "prompt_tokens": workload.prompt_tokens,
            "output_tokens": workload.output_tokens,
            "repetitions": repetitions,
        }
        model = str(self.model_file(folder))
        found = self.run({"task": "time", "model": model, **asked, **self.serving(folder)})
        return ExportTimes(tuple(found["ttft_s"]), tuple(found["tpot_s"]))

    def _predictions(self, folder: Path, ids: torch.Tensor, more: dict[str, Any]) -> Predictions:
        from paretune.engines.manifest import read_manifest
        from paretune.engines.runner_predictions import runner_predictions

        def run(request: dict[str, Any]) -> dict[str, Any]:
            return self.run({**request, **more})

        vocabulary = int(read_manifest(folder)["base"]["vocabulary"])
        return runner_predictions(run, self.model_file(folder), ids, vocabulary)
