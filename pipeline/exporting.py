"""Write a member of a front as a checkpoint, load it again, compare."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from paretune.engines.canary import REFERENCE, add_canaries, discard_unlisted
from paretune.engines.engine import Engine, ExportCard, require_exportable
from paretune.engines.manifest import MANIFEST, check_files, read_manifest
from paretune.engines.reference import add_reference, has_reference
from paretune.engines.verification import Verification, verify_export
from paretune.pipeline.progress import Stages, note
from paretune.pipeline.refining import Refined, refine_member
from paretune.pipeline.verifying import LOADERS, MODEL, writing
from paretune.pipeline.workbench import Workbench, open_workbench
from paretune.search.run_folder import lock_run_folder
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import EngineAbsentError, EngineError, VerificationError
from paretune.spaces.files import refuse_occupied, write_whole, written_whole
from paretune.spaces.result import Member

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler
    from paretune.pipeline.run import Run

_CHECKED_WINDOWS = 16
_SERVE = "serve.sh"
_BUNDLE = f"""# {{}} for {{}}

First `paretune verify .` on this machine: its engine loads the model, whose predictions are held against those of the
searched candidate, which are in `{MODEL}/{REFERENCE}`. Then `sh {_SERVE}`.

`{MODEL}/README.md` says what the model is.
"""


class Exported(TypedDict, total=False):
    """What is kept of an export, in ``run.json`` too; the last keys where it was loaded again.

    ``weight_bytes`` in bytes; ``kl_to_candidate`` and ``tolerance`` in nats a token; ``launch``: a line for a shell.
    """

    name: str
    engine: str
    folder: str
    weight_bytes: int
    launch: str
    kl_to_candidate: float
    tolerance: float
    top1_agreement: float
    tokens: int
    note: str
    refined: str
    not_loaded: str
    failed: str
    gguf: dict[str, Any]
    bundle: str


@dataclass(frozen=True)
class ExportRequest:
    """How a member is exported.

    Attributes:
        out: folder to write; inside the run folder if ``None``.
        refine: method by which its weights are made again.
        container: that ``transformers`` loads, where it is not the usual one.
        canaries: prefixes with reference answers (count); ``None``: none.
        bundle: whether ``out`` is a bundle for a server; see :func:`write_bundle`.
    """

    out: Path | None = None
    refine: str | None = None
    container: str | None = None
    canaries: int | None = None
    bundle: bool = False


def export_from(run: Run, member: Member, request: ExportRequest, stages: Stages) -> Exported:
    """Export a member of a run.

    Raises:
        ParetuneError: see :meth:`paretune.pipeline.run.Run.export`.
    """
    with lock_run_folder(run.folder):
        if request.out is not None and not any(
            (place / MANIFEST).is_file() for place in (request.out, request.out / MODEL)
        ):
            refuse_occupied(request.out)
        bench = in_form(open_workbench(run.settings, run.folder, stages), request.container)
        name = _folder_name(member.name, request.refine, bench.engine.form_name)
        place = run.folder / "export" / name
        if request.out is not None and not request.bundle:
            place = request.out
        refined = None
        if request.refine is not None:
            refined = _refined_member(bench, member, request.refine, place, stages)
        done = export_member(bench, member, place, refined, canaries=request.canaries)
        if request.bundle:
            done["bundle"] = str(
                write_bundle(bench.engine, place, request.out or run.folder / "bundle" / name)
            )
        return done


def write_bundle(engine: Engine, export: Path, folder: Path) -> Path:
    """Write what a server needs of an export, and nothing else: its files, a line that serves them, and words.

    Nothing in it names a folder of this machine. One that is there already with the same export stays.

    Args:
        engine: that the export was written for.
        export: its folder.
        folder: to write, whole or not at all.

    Raises:
        EngineError: the folder holds something else, or the disk is full.
    """
    if _manifest(folder / MODEL) == read_manifest(export) and (folder / _SERVE).is_file():
        check_files(folder / MODEL)
        return folder
    with written_whole(folder) as partial:
        shutil.copytree(export, partial / MODEL)
        line = engine.launch_line(export)
        for own in (str(export.resolve()), str(export)):
            line = line.replace(own, f"./{MODEL}")
        write_whole(partial / _SERVE, f'#!/bin/sh\ncd "$(dirname "$0")" || exit\n{line}\n')
        (partial / _SERVE).chmod(0o755)
        manifest = read_manifest(export)
        write_whole(partial / "README.md", _BUNDLE.format(manifest["name"], manifest["engine"]))
    return folder


def _folder_name(member: str, refine: str | None, form: str) -> str:
    """Not ``MEMBER-gptq``: that is the name of a uniform configuration."""
    return member + (f"-refined-{refine}" if refine else "") + (f"-as-{form}" if form else "")


def _refined_member(bench: Workbench, member: Member, method: str, folder: Path, stages: Stages) -> Refined:
    """A member with its weights made again, which may take hours; what could not be exported is refused before.

    Raises:
        EngineError: the format cannot express the candidate, or the folder holds something else.
        UnknownNameError: no such method.
        ConfigurationError: the configuration has nothing to refine.
    """
    ruling = bench.engine.export_ruling(bench.spec, member.config)
    require_exportable(ruling, ExportCard(bench.model_folder, member.name))
    if not is_refined_export(folder, member.digest, bench.hashes, method, bench.engine.form_name):
        refuse_occupied(folder)
    return refine_member(bench, member.config, method, stages)


def in_form(bench: Workbench, form: str | None) -> Workbench:
    """The bench with an engine that writes this form; as it is where none was asked for.

    Raises:
        UnknownNameError: there is no such form.
        EngineError: the run's exports are not for transformers, or nothing here loads the form.
    """
    if form is None:
        return bench
    if bench.engine.name not in LOADERS["transformers"]:
        raise EngineError(
            f"container {form}",
            f"is for exports that transformers loads, and the run searched for {bench.engine.name}",
            f"Leave --container out, or search with --engine {' or '.join(LOADERS['transformers'])}",
        )
    return replace(bench, engine=writing(form))


def export_member(
    bench: Workbench,
    member: Member,
    folder: Path,
    refined: Refined | None = None,
    *,
    canaries: int | None = None,
) -> Exported:
    """Write, load in a fresh process, compare; what ``run.json`` keeps of it.

    An earlier export of the same candidate in the same place is checked again, and written again only where it fails.

    Args:
        bench: of the run.
        member: of its front.
        folder: to write.
        refined: weights made again for the member's configuration.
        canaries: prefixes of the report text that are written into it once it is verified; ``None``: what it has.

    Raises:
        EngineError: the format cannot express the candidate, or the folder holds something else.
        VerificationError: what was loaded is not the candidate.
    """
    if bench.spec.shipped is not None and member.config == DENSE_CONFIG:
        raise EngineError(
            f"an export of {member.name}",
            f"is the checkpoint as it came ({bench.spec.shipped.method}), which would be written in {bench.spec.dtype}",
            f"Use {bench.run.model} itself",
        )
    figures: dict[str, float | None] = {name: found.value for name, found in member.measurements.items()}
    assembler, hashes, kl = bench.assembler, bench.hashes, member.value("kl")
    origin: dict[str, Any] = {}
    if refined is not None:
        assembler, kl = refined.assembler, refined.kl_after
        figures |= refined.figures
        hashes, origin = {**hashes, "refined": assembler.bank.hash}, {"refined": refined.method}
    card = ExportCard(
        source=bench.model_folder,
        name=member.name,
        run={"hashes": hashes, **origin},
        figures=figures,
        tensor_parallel=bench.run.workload.tensor_parallel,
    )
    verify = partial(
        verify_export,
        bench.engine,
        assembler,
        member.config,
        folder,
        bench.windows["report"].ids[:_CHECKED_WINDOWS],
        kl_of_candidate=0.0 if kl is None else kl,
    )
    verified: Verification | None = None
    done: Exported
    try:
        if is_export_of(folder, member.digest, hashes, bench.engine.form_name):
            discard_unlisted(folder)
            try:
                _refer(bench, assembler, member.config, folder)
                verified = verify()
            except VerificationError:
                set_aside(folder)
        if verified is None:
            bench.engine.export(assembler, member.config, folder, card)
            try:
                _refer(bench, assembler, member.config, folder)
                verified = verify()
            except (KeyboardInterrupt, SystemExit):
                # It looks like any other, and nobody knows whether it is right.
                shutil.rmtree(folder, ignore_errors=True)
                raise
        if canaries is not None:
            add_canaries(bench.engine, folder, bench.windows["report"].ids, bench.tokenizer, canaries)
        done = {
            **written_export(bench, folder), "kl_to_candidate": verified.kl, "tolerance": verified.tolerance,
            "top1_agreement": verified.top1_agreement, "tokens": verified.tokens, "note": verified.note,
        }  # fmt: skip
    except EngineAbsentError as error:
        if canaries is not None or not (folder / MANIFEST).is_file():
            raise
        # Nothing against what was written: it can be verified where the engine is.
        done = {**written_export(bench, folder), "not_loaded": f"{error.value} {error.rule}. {error.remedy}"}
    return done if refined is None else {**done, "refined": refined.line}


def _refer(bench: Workbench, assembler: Assembler, config: CompressionConfig, folder: Path) -> None:
    """Put the candidate's own predictions into an export that has none."""
    if not has_reference(folder):
        model = assembler.apply(bench.executed(config).replaced(kv=KVFormat()))
        add_reference(folder, model, config, bench.windows["report"].ids, bench.device.name)


def set_aside(folder: Path) -> Path:
    """Give an export that is not what it was another name, so that it can be written anew and looked at later."""
    names = (folder.with_name(f"{folder.name}.damaged{suffix}") for suffix in chain([""], map(str, count(2))))
    place = next(name for name in names if not name.exists())
    folder.rename(place)
    note(f"{folder} is not what was exported; it is {place} now and is written again")
    return place


def written_export(bench: Workbench, folder: Path) -> Exported:
    """What ``run.json`` keeps of an export whether or not it was loaded."""
    manifest = read_manifest(folder)
    return {
        "name": manifest["name"],
        "engine": manifest["engine"],
        "folder": str(folder),
        "weight_bytes": manifest["weight_bytes"],
        "launch": bench.engine.launch_line(folder),
    }


def export_line(done: Exported) -> str:
    """One line for people, and one more before it where weights were made again."""
    refined = f"{done['refined']}\n" if "refined" in done else ""
    bundle = f"\nto copy to the server: {done['bundle']}" if "bundle" in done else ""
    if "not_loaded" in done:
        return f"{refined}exported {done['name']} to {done['folder']}; not verified here: {done['not_loaded']}{bundle}"
    return (
        f"{refined}exported {done['name']} to {done['folder']}; loaded again by {done['engine']} in a fresh process: "
        f"KL to the searched candidate {done['kl_to_candidate']:.2g} nat a token "
        f"(at most {done['tolerance']:.2g} allowed), {done['tokens']:,} tokens{bundle}"
    )


def is_export_of(folder: Path, digest: str, hashes: dict[str, str], form: str = "") -> bool:
    """Whether a folder holds the candidate ``digest`` of a run with these hashes, by a manifest that can be read."""
    found = _manifest(folder)
    same = found.get("digest") == digest and _origin(found).get("hashes") == hashes
    return bool(same and found.get("form", "") == form)


def is_refined_export(folder: Path, digest: str, hashes: dict[str, str], method: str, form: str = "") -> bool:
    """Whether a folder holds the candidate refined by ``method`` from a run with these hashes.

    Which weights came of it is known once they are made again.
    """
    origin = _origin(_manifest(folder))
    weights = (origin.get("hashes") or {}).get("refined")
    if origin.get("refined") != method or not weights:
        return False
    return is_export_of(folder, digest, {**hashes, "refined": weights}, form)


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; empty where none can be read."""
    try:
        return read_manifest(folder)
    except VerificationError:
        return {}


def _origin(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest.get("run") or {}
