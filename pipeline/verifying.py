"""An engine loads an export; its predictions are held against the searched candidate."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretune.compressors.assembly import Assembler
from paretune.engines import find_engine
from paretune.engines.canary import REFERENCE
from paretune.engines.engine import Engine
from paretune.engines.first_difference import first_difference
from paretune.engines.manifest import MANIFEST, check_files, manifest_config, read_manifest
from paretune.engines.reference import verify_alone
from paretune.engines.transformers_engine import Transformers
from paretune.engines.verification import Verification, compare_export, default_tolerance, verify_export
from paretune.pipeline.progress import Stages
from paretune.pipeline.refining import refine_member
from paretune.pipeline.run import Run
from paretune.pipeline.workbench import Workbench, open_workbench
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import (
    EngineError,
    EngineUnavailableError,
    ParetuneError,
    RunError,
    VerificationError,
)

LOADERS = {
    "llama.cpp": ("llama.cpp",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "transformers": ("transformers", "torch", "torch-cpu"),
    "vllm": ("vllm", "transformers"),
}
"""By the engine that an export was written for: those that load it, itself first."""

MODEL = "model"
"""Folder of the export in a bundle."""
_PLACED_WINDOWS = 4
"""That a differing block is looked for on: every step writes and loads an export."""


@dataclass(frozen=True)
class Verified:
    """An export that is the candidate it was made from.

    Attributes:
        export: its folder.
        engine, version: that loaded it.
        found: by comparing.
    """

    export: Path
    engine: str
    version: str
    found: Verification

    def document(self) -> dict[str, Any]:
        """As JSON; nats a token."""
        return {"export": str(self.export), "engine": self.engine, **asdict(self.found)}

    @property
    def line(self) -> str:
        """One line for people."""
        found, note = self.found, f" ({self.found.note})" if self.found.note else ""
        return (
            f"{self.export} in {self.engine} {self.version}: KL to the searched candidate {found.kl:.2g} nat a token, "
            f"at most {found.tolerance:.2g} allowed; {found.tokens:,} tokens, "
            f"{found.top1_agreement:.1%} of the likeliest tokens alike{note}"
        )


def verify_folder(
    export: Path, engine: str | None, run: Path | None, windows: int, stages: Stages
) -> Verified:
    """Check hashes, load an export in an engine, compare with the searched candidate.

    With the predictions of the candidate that the export brings; with the candidate itself where a run is named, where
    it brings none, and to say where the two part, if it lies in its run folder.

    Args:
        export: its folder, or that of a bundle.
        engine: that loads it; the one that it was written for if ``None``.
        run: folder that it comes from.
        windows: that are read (count).
        stages: tells what is being done.

    Raises:
        VerificationError: it is another candidate, or its files are not those that were written.
        EngineUnavailableError: the engine is not here.
        RunError: it is no export, or of another run.
    """
    if not (export / MANIFEST).is_file() and (export / MODEL / MANIFEST).is_file():
        export = export / MODEL
    require_export(export)
    check_files(export)
    manifest = read_manifest(export)
    chosen = loading_engine(manifest, engine)
    require_here(chosen)
    failed: VerificationError | None = None
    if run is None and REFERENCE in manifest["files"]:
        try:
            with stages.stage(
                "verify", f"loading it in {chosen.name}, comparing it with what the candidate predicts"
            ):
                return Verified(export, chosen.name, chosen.version(), verify_alone(chosen, export, windows))
        except VerificationError as error:
            failed = error
            try:
                run_of(export)
            except RunError:
                raise error from None
    # The run has the candidate itself: it tells where an export parts from it.
    found = _beside_its_run(export, manifest, chosen, Run(run or run_of(export)), windows, stages)
    if failed is not None:
        raise failed
    return Verified(export, chosen.name, chosen.version(), found)


def _beside_its_run(
    export: Path, manifest: dict[str, Any], chosen: Engine, run: Run, windows: int, stages: Stages
) -> Verification:
    """Compare an export with the candidate, made again from its run."""
    bench = open_workbench(run.settings, run.folder, stages)
    check_origin(export, manifest, bench)
    config = manifest_config(manifest, export)
    ids = bench.windows["report"].ids[:windows]
    assembler = _searched(bench, manifest, config, stages)
    try:
        return verify_export(chosen, assembler, config, export, ids, kl_of_candidate=_kl_of(manifest))
    except VerificationError as error:
        place = _where_they_part(bench, assembler, chosen, export, manifest, ids)
        raise VerificationError(error.value, f"{error.rule}; {place}", error.remedy) from error


def require_export(folder: Path) -> None:
    """Refuse a folder that was never an export: nothing is known of it, good or bad.

    Raises:
        RunError: it holds no manifest.
    """
    if not (folder / MANIFEST).is_file():
        raise RunError(
            f"folder {folder}",
            f"is no export: it holds no {MANIFEST}",
            "Give RUN/export/NAME, a bundle, or a rung of a ladder",
        )


def loader(manifest: dict[str, Any], asked: str | None) -> str:
    """The engine to load an export with.

    Raises:
        EngineError: it was written for another that the asked one cannot read.
    """
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
    for folder in export.resolve().parents:
        if (folder / "run.json").is_file():
            return folder
    raise RunError(f"export {export}", "lies in no run folder", "Name the run with --run")


def check_origin(export: Path, manifest: dict[str, Any], bench: Workbench) -> None:
    """Refuse to compare with another run's candidate, which says nothing of the export.

    Raises:
        RunError: model, texts or bank are others, or the manifest does not say which they were.
    """
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


def _searched(
    bench: Workbench, manifest: dict[str, Any], config: CompressionConfig, stages: Stages
) -> Assembler:
    """What gives the candidate that was exported; refined weights are made again, since no run keeps them.

    Raises:
        EngineUnavailableError: they come out as others, so that there is nothing to compare with.
    """
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


def _kl_of(manifest: dict[str, Any]) -> float:
    """KL of the candidate to the dense model, nats a token, as far as the export says it."""
    return float((manifest.get("figures") or {}).get("kl") or 0.0)


def _where_they_part(
    bench: Workbench, assembler: Assembler, engine: Engine, export: Path, manifest: dict[str, Any], ids: Any
) -> str:
    """Words on where a candidate and its engine part, or on whether the folder holds another candidate.

    Both are said of the few windows that a block is looked for on, so the folder has to differ on these too; a fresh
    export is written as the folder was.
    """
    config = manifest_config(manifest, export)
    few = ids[:_PLACED_WINDOWS]
    allowed = default_tolerance(engine, config, assembler.apply(config).dtype, _kl_of(manifest))
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
