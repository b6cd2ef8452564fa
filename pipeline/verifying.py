"""An engine loads an export; its predictions are held against the searched candidate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.engines.engine import Engine
    from paretune.pipeline.output import Stages
    from paretune.pipeline.workbench import Workbench
    from paretune.spaces.configuration import CompressionConfig

LOADERS = {
    "llama.cpp": ("llama.cpp",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "transformers": ("transformers", "torch", "torch-cpu"),
    "vllm": ("vllm", "transformers"),
}
"""By the engine that an export was written for: those that load it, itself first."""

_PLACED_WINDOWS = 4
"""That a differing block is looked for on: every step writes and loads an export."""


def require_export(folder: Path) -> None:
    """Refuse a folder that was never an export: nothing is known of it, good or bad.

    Raises:
        RunError: it holds no manifest.
    """
    from paretune.engines.manifest import MANIFEST
    from paretune.spaces.errors import RunError

    if not (folder / MANIFEST).is_file():
        raise RunError(
            f"folder {folder}",
            f"is no export: it holds no {MANIFEST}",
            "Give RUN/export/NAME, or a rung of a ladder",
        )


def loader(manifest: dict[str, Any], asked: str | None) -> str:
    """The engine to load an export with.

    Raises:
        EngineError: it was written for another that the asked one cannot read.
    """
    from paretune.spaces.errors import EngineError

    written = str(manifest.get("engine", "transformers"))
    able = LOADERS.get(written, (written,))
    if asked is not None and asked not in able:
        raise EngineError(
            f"engine {asked}",
            f"does not load an export for {written}",
            f"Use {', '.join(able)}, or export for it",
        )
    return asked or able[0]


def require_here(engine: Engine) -> None:
    """Refuse an engine that does not run on this machine: nothing would be known of the export.

    Raises:
        EngineUnavailableError: it does not.
    """
    from paretune.spaces.errors import EngineUnavailableError

    able = engine.available()
    if not able:
        raise EngineUnavailableError(
            f"engine {engine.name}", able.reason, "Install it, or name another engine that loads the export"
        )


def loading_engine(manifest: dict[str, Any], asked: str | None) -> Engine:
    """The engine of :func:`loader`, in the form that the export has.

    Raises:
        EngineError: as :func:`loader`, or the asked engine knows the usual form alone.
        UnknownNameError: the manifest names a form that there is none of.
    """
    from paretune.engines import find_engine
    from paretune.engines.transformers_engine import Transformers
    from paretune.spaces.errors import EngineError

    name, form = loader(manifest, asked), manifest.get("form")
    if not form:
        return find_engine(name)
    if name != Transformers.name:
        raise EngineError(
            f"engine {name}", f"does not load an export in the form {form}", f"Use {Transformers.name}"
        )
    return writing(str(form))


def writing(form: str) -> Engine:
    """The engine that writes and loads a form, where it can be loaded.

    Raises:
        UnknownNameError: there is no such form.
        EngineError: its loader is not here, so that nothing could be verified.
    """
    from paretune.engines.transformers_engine import Transformers
    from paretune.spaces.errors import EngineError

    engine = Transformers(form)
    verdict = engine.available()
    if not verdict:
        raise EngineError(
            f"form {form}", f"cannot be loaded here: {verdict.reason}", "`paretune engines` lists the forms"
        )
    return engine


def run_of(export: Path) -> Path:
    """The run folder that an export lies in.

    Raises:
        RunError: it lies elsewhere.
    """
    from paretune.spaces.errors import RunError

    for folder in export.resolve().parents:
        if (folder / "run.json").is_file():
            return folder
    raise RunError(f"export {export}", "lies in no run folder", "Name the run with --run")


def check_origin(export: Path, manifest: dict[str, Any], bench: Workbench) -> None:
    """Refuse to compare with another run's candidate, which says nothing of the export.

    Raises:
        RunError: model, texts or bank are others, or the manifest does not say which they were.
    """
    from paretune.spaces.errors import RunError

    origin = manifest.get("run") or {}
    said = origin.get("hashes") or {}
    for name in [*bench.hashes, *(["refined"] if origin.get("refined") else [])]:
        if name not in said:
            raise RunError(
                f"export {export}",
                f"does not say with which {name} it was made",
                "Export it again from its run",
            )
    for name, digest in bench.hashes.items():
        if said[name] != digest:
            raise RunError(
                f"export {export}",
                f"was made with another {name} than {bench.folder} has",
                "Name the run that it comes from with --run",
            )


def searched(
    bench: Workbench, manifest: dict[str, Any], config: CompressionConfig, stages: Stages
) -> Assembler:
    """What gives the candidate that was exported; refined weights are made again, since no run keeps them.

    Raises:
        EngineUnavailableError: they come out as others, so that there is nothing to compare with.
    """
    from paretune.pipeline.refining import refine_member
    from paretune.spaces.errors import EngineUnavailableError

    origin = manifest.get("run") or {}
    method = origin.get("refined")
    if not method:
        return bench.assembler
    assembler = refine_member(bench, config, method, stages).assembler
    if assembler.bank.hash != origin["hashes"]["refined"]:
        raise EngineUnavailableError(
            f"weights refined by {method}",
            "come out as others than were exported: this machine's arithmetic or versions are others",
            "Verify where it was exported, or export it again here",
        )
    return assembler


def kl_of(manifest: dict[str, Any]) -> float:
    """KL of the candidate to the dense model, nats a token, as far as the export says it."""
    return float((manifest.get("figures") or {}).get("kl") or 0.0)


def where_they_part(
    bench: Workbench, assembler: Assembler, engine: Engine, export: Path, manifest: dict[str, Any], ids: Any
) -> str:
    """Words on where a candidate and its engine part, or on whether the folder holds another candidate.

    Both are said of the few windows that a block is looked for on, so the folder has to differ on these too; a fresh
    export is written as the folder was.
    """
    from paretune.engines.first_difference import first_difference
    from paretune.engines.manifest import manifest_config
    from paretune.engines.verification import compare_export, default_tolerance
    from paretune.spaces.errors import ParetuneError

    config = manifest_config(manifest, export)
    few = ids[:_PLACED_WINDOWS]
    allowed = default_tolerance(engine, config, assembler.apply(config).dtype, kl_of(manifest))
    try:
        if compare_export(engine, assembler, config, export, few).kl <= allowed:
            return f"too little to be placed: on the first {len(few)} of {len(ids)} windows it is within that"
        writer = loading_engine(manifest, None)
        place = first_difference(engine, assembler, config, bench.model_folder, few, allowed, writer)
    except ParetuneError as error:
        return f"no block can be named: {error}"
    if place is None:
        return "a fresh export of the candidate agrees, so this folder holds another one"
    return f"they part in {place}"
