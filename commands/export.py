"""``paretune export RUN``: write a member of a front as a checkpoint, load it again, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from commands.workbench import Workbench
    from spaces.result import Member

_CHECKED_WINDOWS = 16


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    name: Annotated[str | None, typer.Option(help="Member to export; the pick if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; RUN/export/NAME if left out.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> int:
    """Export a member; `transformers` loads it in a fresh process and its KL to the candidate is printed (nat)."""
    from commands.output import Stages
    from commands.run_file import validate_run
    from commands.workbench import open_workbench
    from reports.reading import read_run_folder
    from search.run_folder import lock_run_folder

    found = read_run_folder(run)
    wanted = name or found.front.pick
    member = find_member(found.front.members, wanted)
    settings = validate_run(found.run.settings, f"{run}/run.json")
    with lock_run_folder(run):
        bench = open_workbench(settings, run, Stages(quiet))
        done = export_member(bench, member, out or run / "export" / member.name)
    print(export_line(done))
    return 0


def find_member(members: tuple[Member, ...], name: str) -> Member:
    """The row called ``name``, or whose digest begins with it.

    Raises:
        UnknownNameError: there is none.
    """
    from spaces.errors import UnknownNameError

    for member in members:
        if member.name == name or (len(name) >= 6 and member.digest.startswith(name)):
            return member
    raise UnknownNameError("member of the front", name, [member.name for member in members])


def export_member(bench: Workbench, member: Member, folder: Path) -> dict[str, Any]:
    """Write, load in a fresh process, compare; what ``run.json`` keeps of it.

    An earlier export of the same candidate in the same place is checked again, not written again.

    Raises:
        EngineError: the format cannot express the candidate, or the folder holds something else.
        VerificationError: what was loaded is not the candidate.
    """
    from engines.engine import ExportCard
    from engines.verification import verify_export

    figures = {column: found.value for column, found in member.measurements.items()}
    card = ExportCard(
        source=bench.model_folder, name=member.name, run={"hashes": bench.hashes}, figures=figures
    )
    if not _is_export_of(folder, member.digest):
        bench.engine.export(bench.assembler, member.config, folder, card)
    kl = member.value("kl")
    verified = verify_export(
        bench.assembler,
        member.config,
        folder,
        bench.windows["report"].ids[:_CHECKED_WINDOWS],
        kl_of_candidate=0.0 if kl is None else kl,
    )
    return {
        "name": member.name,
        "folder": str(folder),
        "weight_bytes": member.value("weight_bytes"),
        "kl_to_candidate": verified.kl,
        "tolerance": verified.tolerance,
        "top1_agreement": verified.top1_agreement,
        "tokens": verified.tokens,
        "note": verified.note,
        "launch": bench.engine.launch_line(folder),
    }


def export_line(done: dict[str, Any]) -> str:
    """One line for people."""
    return (
        f"exported {done['name']} to {done['folder']}; loaded again by transformers in a fresh process: "
        f"KL to the searched candidate {done['kl_to_candidate']:.2g} nat a token "
        f"(at most {done['tolerance']:.2g} allowed), {done['tokens']:,} tokens"
    )


def _is_export_of(folder: Path, digest: str) -> bool:
    import json

    manifest = folder / "paretune.json"
    if not manifest.is_file():
        return False
    return bool(json.loads(manifest.read_text(encoding="utf-8")).get("digest") == digest)
