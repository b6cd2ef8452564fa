"""The small interface behind which every engine stands, and the values that it hands out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import LEGAL, Legality, Ruling, require
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.patterns import Restrictions
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    import torch

    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank
    from paretune.engines.predictions import Predictions


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
    """

    name: str
    exact: bool = False
    device_kind: Literal["cpu", "gpu"] | None = None
    fuses: bool = False

    @abstractmethod
    def version(self) -> str:
        """Of the engine's package."""

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
        return config.replaced(layers=layers)

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

    def offered(self, restrictions: Restrictions) -> Restrictions:
        """What the user allows, in the formats of this engine where the user named none."""
        return restrictions

    def stored(self, spec: ModelSpec) -> ModelSpec:
        """The model as its container stores it: what is never quantized may have another width there."""
        return spec

    @abstractmethod
    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """Whether :meth:`export` can write the candidate."""

    @abstractmethod
    def export(
        self, weights: Assembler | Bank, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """Write what the engine loads into ``folder``, whole or not at all; returns it. No model is run.

        Raises:
            EngineError: the format cannot express the candidate, or the folder is not empty.
        """

    @abstractmethod
    def predictions(self, folder: Path, ids: torch.Tensor) -> Predictions:
        """What an export predicts at every position of int64 ids ``(windows, tokens)``, by a fresh process.

        Raises:
            EngineError: the engine cannot load the folder, or does not run here.
        """

    def served_predictions(self, folder: Path, ids: torch.Tensor) -> Predictions:
        """The same as a server of :meth:`launch_line` answers: with the cache in the format of the candidate.

        Raises:
            EngineError: as :meth:`predictions`, or no kernel here keeps such a cache.
        """
        return self.predictions(folder, ids)

    def many_predictions(
        self, folders: Sequence[Path], ids: torch.Tensor, *, served: bool = False
    ) -> list[Predictions | EngineError]:
        """What several exports predict, in their order; one that is refused has its refusal in that place.

        Args:
            folders: of the exports.
            ids: as for :meth:`predictions`.
            served: by :meth:`served_predictions`.
        """
        predict = self.served_predictions if served else self.predictions
        found: list[Predictions | EngineError] = []
        for folder in folders:
            try:
                found.append(predict(folder, ids))
            except EngineError as error:
                found.append(error)
        return found

    @abstractmethod
    def launch_line(self, folder: Path) -> str:
        """One line for a shell that runs the export."""
