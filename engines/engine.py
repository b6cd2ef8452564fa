"""The small interface behind which every engine stands, and the values that it hands out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.compressors.expert_names import UNFOLDED
from paretune.engines.environments import Environment, find_environment, variable
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineAbsentError, EngineError
from paretune.spaces.legality import LEGAL, Legality, Ruling, require
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.patterns import Restrictions
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    import torch

    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider
    from paretune.engines.predictions import Predictions
    from paretune.engines.profiled_engine import ProfiledEngine


@dataclass(frozen=True)
class ExportCard:
    """What an export says about itself besides its configuration.

    Attributes:
        source: folder of the dense checkpoint: tokenizer, ``config.json`` and licence are taken from it.
        name: of the candidate, e.g. ``uniform-4``.
        run: provenance: run folder, hashes of model, bank and texts, seed, versions.
        figures: measured and predicted values by column name.
        tensor_parallel: devices that share every layer where it is served.
    """

    source: Path
    name: str = "candidate"
    run: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)
    tensor_parallel: int = 1


@dataclass(frozen=True)
class ExportTimes:
    """What an export took, by repetition.

    Attributes:
        ttft_s: from the prompt to the first token.
        tpot_s: each further token.
    """

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]


def refuse_sharing(engine: str, workload: Workload) -> None:
    """Refuse several devices for an engine that runs on one.

    Raises:
        EngineError: the workload has several.
    """
    if workload.tensor_parallel != 1:
        raise EngineError(
            f"tensor_parallel={workload.tensor_parallel}",
            f"{engine} runs on one device",
            "Use tensor_parallel=1, or another engine",
        )


def require_exportable(verdict: Ruling, card: ExportCard) -> None:
    """Refuse an export that the engine's container cannot hold.

    Raises:
        EngineError: the verdict is a refusal.
    """
    require(verdict, f"export of {card.name}", "Choose other formats, or another engine")


class Engine(ABC):
    """A program that runs compressed models on devices of some kind.

    Attributes:
        name: registered name, the same in every file.
        exact: whether it computes in float32 throughout, so that an export must predict what the candidate predicts
            to 1e-5 nats a token.
        device_kind: of the devices that it runs on; ``None``: any.
        fuses: whether it loads the layers of a group as one matrix, so that an export in which they differ is refused;
            others let them share a choice in a search and load them apart.
        times_exports: whether its exports can be timed whole, one sequence at a time (:meth:`time_export`).
        profiled: itself, where its operations can be timed one by one; ``None``: they cannot.
        form_name: form of its checkpoints, where that is not its usual one; empty: the usual one.
        loader: file of ``engines/loaders`` by which a process of the engine loads an export.
        only_top: whether it tells the likeliest tokens alone.
        rounds_experts: whether it expands quantized experts in the dtype of their scales, whatever it computes in.
    """

    name: str
    exact: bool = False
    device_kind: Literal["cpu", "gpu"] | None = None
    fuses: bool = False
    rounds_experts: bool = False
    times_exports: bool = False
    form_name: str = ""
    loader: str
    only_top: bool = False

    @property
    def profiled(self) -> ProfiledEngine | None:
        """See the attributes."""
        return None

    @property
    def install(self) -> str:
        """In words, how to get it where it is not found."""
        return f"install it, or name an interpreter that has it in {variable(self.name)}"

    def environment(self) -> Environment:
        """The interpreter that has the engine.

        Raises:
            EngineAbsentError: there is none.
        """
        found = find_environment(self.name)
        if found is None:
            raise EngineAbsentError(self.name, "is not installed where we look", self.install)
        return found

    def version(self) -> str:
        """Of the package that carries the engine.

        Raises:
            EngineAbsentError: it is not installed.
        """
        return self.environment().version

    @abstractmethod
    def available(self) -> Ruling:
        """Whether it runs on this machine, and why not."""

    @abstractmethod
    def legality(self, device: str) -> Legality:
        """What it accepts on the device of this name."""

    def legality_at(self, device: str, workload: Workload) -> Legality:
        """What it accepts there at the workload: devices that share a layer divide its heads and rows.

        Raises:
            EngineError: the workload has several devices, and the engine runs on one.
        """
        refuse_sharing(self.name, workload)
        return self.legality(device)

    @abstractmethod
    def numeric_path(self, device: str) -> str:
        """The formats as it executes them there: what a score is valid for."""

    def executed(self, linear: Linear, choice: LayerChoice, device: str) -> LayerChoice:
        """The layer's choice as the device computes it, e.g. without rounded inputs where no kernel rounds them."""
        del linear, device
        return choice

    def executed_config(self, spec: ModelSpec, config: CompressionConfig, device: str) -> CompressionConfig:
        """The candidate as the device computes it: what is scored, and what an export is compared with."""
        layers = {
            layer: self.executed(spec.linear(layer), choice, device)
            for layer, choice in config.layers.items()
        }
        experts = any(spec.linear(layer).role.startswith("expert") for layer in layers)
        experts = experts and spec.family not in UNFOLDED
        return config.replaced(layers=layers, rounded_experts=self.rounds_experts and experts)

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """Whether it is :attr:`exact` for this candidate too."""
        del config
        return self.exact

    def here(self) -> str:
        """The device that :meth:`predictions` runs on, by a name that :meth:`executed` knows."""
        return "cpu"

    def here_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether the device of :meth:`here` runs an export that another device may have been meant for."""
        del spec, config
        return LEGAL

    def offered(self, restrictions: Restrictions, device: str) -> Restrictions:
        """What the user allows, in the formats that this engine and the device run well where the user named none.

        Zeros that are stored like any other weight save neither bytes nor time: only who asks for them gets them.
        """
        del device
        asked = {"sparsity", "sparsity_pattern", "sparsity_criterion"} & restrictions.model_fields_set
        return restrictions if asked else restrictions.model_copy(update={"sparsity": (0.0,)})

    def stored(self, spec: ModelSpec) -> ModelSpec:
        """The model as its container stores it: what is never quantized may have another width there."""
        return spec

    def source_ruling(self, folder: Path) -> Ruling:
        """Whether an export can be made of the model in ``folder``, whatever is chosen: its tokenizer, say."""
        del folder
        return LEGAL

    @abstractmethod
    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether :meth:`export` can write the candidate."""

    @abstractmethod
    def export(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """Write what the engine loads into ``folder``, whole or not at all; returns it. No model is run.

        Raises:
            EngineError: the format cannot express the candidate, or the folder is not empty.
        """

    def predictions(self, folder: Path, ids: torch.Tensor) -> Predictions:
        """What an export predicts at every position of int64 ids ``(windows, tokens)``, by a fresh process.

        The cache is left at 16 bits.

        Raises:
            EngineError: the engine cannot load the folder, or does not run here.
        """
        from paretune.engines.running import only

        return only(self.many_predictions([folder], ids))

    def served_predictions(self, folder: Path, ids: torch.Tensor) -> Predictions:
        """The same as a server of :meth:`launch_line` answers: with the cache in the format of the candidate.

        Raises:
            EngineError: as :meth:`predictions`, or no kernel here keeps such a cache.
        """
        from paretune.engines.running import only

        return only(self.many_predictions([folder], ids, served=True))

    def many_predictions(
        self, folders: Sequence[Path], ids: torch.Tensor, *, served: bool = False
    ) -> list[Predictions | EngineError]:
        """What several exports predict, in their order; one that is refused has its refusal in that place.

        Args:
            folders: of the exports.
            ids: as for :meth:`predictions`.
            served: as :meth:`served_predictions` does it.

        Raises:
            EngineError: the engine is absent.
            VerificationError: a folder is no export.
        """
        from paretune.engines.manifest import base_vocabulary
        from paretune.engines.running import predictions_of

        models = [(self.job(folder, served=served), base_vocabulary(folder)) for folder in folders]
        return predictions_of(self, models, ids, processes=self.processes(folders))

    def job(self, folder: Path, *, served: bool) -> dict[str, Any]:
        """What a job for :mod:`paretune.engines.runner` says of an export: ``model``, and ``options`` of its loader."""
        del served
        return {"model": str(folder)}

    def processes(self, folders: Sequence[Path]) -> int:
        """How many exports are loaded at a time, each in a process of its own; 0: in one process after the other."""
        del folders
        return 0

    def run(self, jobs: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """See :func:`paretune.engines.running.run_jobs`."""
        from paretune.engines.running import run_jobs

        return run_jobs(self.environment(), self.loader, jobs)

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to one job, with the versions that gave it.

        Raises:
            EngineError: the engine is absent, or refuses.
        """
        from paretune.engines.running import refused

        answers, versions = self.run([job])
        if "error" in answers[0]:
            raise refused(self, job, answers[0])
        return {**answers[0], **versions}

    def time_export(self, folder: Path, workload: Workload, repetitions: int = 3) -> ExportTimes:
        """Generate at the workload so often, after a warm-up, in a fresh process.

        Raises:
            EngineError: the engine has :attr:`times_exports` not, or the workload has several sequences at once.
        """
        if not self.times_exports or workload.batch != 1:
            raise EngineError(
                f"a batch of {workload.batch}",
                f"is not timed by the runner of {self.name}, which decodes one sequence",
                "Use batch=1, or leave limits and objectives on time out",
            )
        shape = {"prompt_tokens": workload.prompt_tokens, "output_tokens": workload.output_tokens}
        found = self.ask(
            {"task": "time", "repetitions": repetitions, **shape, **self.job(folder, served=True)}
        )
        return ExportTimes(tuple(found["ttft_s"]), tuple(found["tpot_s"]))

    @abstractmethod
    def launch_line(self, folder: Path) -> str:
        """One line for a shell that runs the export."""
