"""What can be said without loading a model: engines, and the space that a search would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paretune.engines import Engine, engine_names, find_engine
from paretune.engines.environments import find_environment
from paretune.engines.forms import find_form, form_names
from paretune.evaluators.cost import CostEvaluator
from paretune.pipeline.models import model_folder
from paretune.pipeline.run_file import RunFile
from paretune.pipeline.targets import LOCAL, local_device
from paretune.profiles.devices import detect_device, find_device
from paretune.search.feasibility import check_feasible
from paretune.spaces.architectures import check_weights, read_model
from paretune.spaces.architectures.headers import present_files
from paretune.spaces.choice import LayerChoice
from paretune.spaces.errors import EngineError
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Device


@dataclass(frozen=True)
class EngineRow:
    """What is known of one registered engine.

    Attributes:
        engine: registered name.
        found: whether an interpreter with its package is known.
        version: of the package, empty where it is not found.
        python: the interpreter that has it, empty where it is not found.
        source: who named that interpreter.
        runs: whether it runs on this machine.
        reason: why it is not found or does not run, and what to do about it.
        searches: what ``paretune search`` needs for it: ``here``, ``with --device NAME`` (the export is verified
            where the engine is), or ``no``.
        forms: of checkpoints that it loads, where it has several: why one cannot be loaded here and what to install,
            empty if it can.
    """

    engine: str
    found: bool
    version: str
    python: str
    source: str
    runs: bool
    reason: str
    searches: str = "no"
    forms: dict[str, str] = field(default_factory=dict)


def engine_rows() -> list[EngineRow]:
    """One row a registered engine, in the order of the register; nothing is refused."""
    return [_row(name) for name in engine_names()]


def _row(name: str) -> EngineRow:
    engine = find_engine(name)
    verdict, elsewhere = engine.available(), "no" if engine.device_kind == "cpu" else "with --device NAME"
    searches = "here" if verdict else elsewhere
    try:
        found = find_environment(name)
    except EngineError as error:
        return EngineRow(name, False, "", "", "", False, str(error), searches)
    if found is None:
        reason = verdict.reason or f"{name} is not installed"
        return EngineRow(name, False, "", "", "", False, reason, searches)
    forms = (
        {form: find_form(form).available().reason for form in form_names()} if name == "transformers" else {}
    )
    return EngineRow(
        name, True, f"{found.package} {found.version}", str(found.python), found.source, verdict.legal,
        verdict.reason, searches, forms,
    )  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """The space that a search would have, and what it would say first.

    Attributes:
        space: groups, choices, refusals with reasons.
        engine, device: whose rules they are.
        refused_first: what a search would refuse before it begins.
    """

    space: SearchSpace
    engine: str
    device: Device
    refused_first: tuple[str, ...]

    def groups(self) -> list[dict[str, Any]]:
        """One row a group: its layers, shapes, and the bytes of every legal choice."""
        space = self.space
        return [
            {
                "group": parameter.group.name,
                "layers": list(parameter.group.layers),
                "shapes": [
                    [space.spec.linear(layer).out_features, space.spec.linear(layer).in_features]
                    for layer in parameter.group.layers
                ],
                "choices": {
                    choice.name: size
                    for choice, size in zip(parameter.choices, space.choice_bytes(parameter), strict=True)
                    if isinstance(choice, LayerChoice) and size is not None
                },
            }
            for parameter in space.parameters
            if parameter.group is not None
        ]

    def document(self) -> dict[str, Any]:
        """As JSON; bytes."""
        return {
            "engine": self.engine,
            "device": self.device.name,
            "refused_first": list(self.refused_first),
            "model": self.space.spec.model_dump(mode="json", exclude={"linears", "fixed"}),
            "groups": self.groups(),
            "model_wide": {
                parameter.name: [getattr(choice, "name", choice) for choice in parameter.choices]
                for parameter in self.space.parameters
                if parameter.group is None
            },
            "refused": self.space.refused,
        }


def inspect_model(run: RunFile) -> Inspection:
    """The space of a search with these settings; weights that are there are looked at, and not read.

    Raises:
        LimitError: no configuration meets a limit on bytes.
        ParetuneError: whatever is wrong with the model, the engine or the restrictions.
    """
    engine = find_engine(run.engine)
    folder = model_folder(run.model, run.revision, config_only=True)
    spec = engine.stored(read_model(folder, source=run.model, revision=run.revision))
    if spec.shipped is None and present_files(folder):
        check_weights(folder, spec)
    kinds: Mapping[str, Any] = {"auto": engine.device_kind, "cpu": "cpu", "gpu": "gpu"}
    device = detect_device(kinds[run.device]) if run.device in LOCAL else find_device(run.device)
    space = SearchSpace(
        spec, engine.legality_at(device.name, run.workload), engine.offered(run.space, device.name)
    )
    check_feasible(space, CostEvaluator(spec, run.workload).evaluate, run.search.parsed_limits)
    first = [] if (ruling := engine.source_ruling(folder)) else [f"no export of this model: {ruling.reason}"]
    return Inspection(space, engine.name, device, (*_not_here(engine, run.device), *first))


def _not_here(engine: Engine, device: str) -> list[str]:
    if device not in LOCAL:
        return []
    try:
        local_device(engine, device)
    except EngineError as error:
        return [f"{error.value}: {error.rule}. {error.remedy}"]
    return []
