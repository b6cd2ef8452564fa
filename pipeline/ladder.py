"""``paretune export RUN --ladder N``: what is recommended, and safer members to fall back to, as one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paretune.monitoring.ladder import CURRENT, LADDER, LadderFile, Rung, default_trigger
from paretune.monitoring.switching import point_at
from paretune.pipeline.exporting import Exported, ExportRequest, export_line, export_member, in_form
from paretune.pipeline.progress import Stages, note
from paretune.pipeline.workbench import Workbench, open_workbench
from paretune.search.run_folder import lock_run_folder
from paretune.spaces.errors import RunError
from paretune.spaces.files import write_document, written_whole
from paretune.spaces.result import Member

if TYPE_CHECKING:
    from paretune.pipeline.run import Run


def choose_rungs(members: tuple[Member, ...], first: Member, count: int) -> tuple[Member, ...]:
    """Members in the order to fall back in: ``first``, then safer ones up to the safest.

    They are spread evenly over the members of the front whose KL is below that of ``first``, in falling order.

    Args:
        members: that can be exported.
        first: to begin with.
        count: of rungs.

    Raises:
        RunError: the front has fewer safer members, or the KL of ``first`` is not known.
    """
    start = first.value("kl")
    if start is None:
        raise RunError(f"member {first.name}", "has no KL to fall back from", "Name another with --name")
    safer = sorted(
        (m for m in members if m.on_front and (kl := m.value("kl")) is not None and kl < start),
        key=lambda member: (-_kl(member), member.digest),
    )
    steps = count - 1
    if len(safer) < steps:
        raise RunError(
            f"a ladder of {count} rungs from {first.name}",
            f"needs {steps} safer members; the front has {len(safer)} that can be exported",
            f"Ask for --ladder {len(safer) + 1}, or begin with another --name"
            if safer
            else "Begin with a smaller member: --name",
        )
    return (first, *(safer[round(step * len(safer) / steps) - 1] for step in range(1, steps + 1)))


def export_ladder(
    run: Run, first: Member, count: int, request: ExportRequest, stages: Stages
) -> list[Exported]:
    """Export and verify every rung, with canaries, into a folder that appears when all of it is right.

    Args:
        run: whose members.
        first: rung to begin with.
        count: of rungs.
        request: where to, in which container, with how many canaries a rung.
        stages: tells what is being done.

    Returns:
        What :func:`paretune.pipeline.exporting.export_member` says of each, with the folder that it has in the end.

    Raises:
        RunError: the front has too few safer members.
        EngineError: the folder is not empty, or a member cannot be expressed.
        VerificationError: what was loaded is not the candidate; nothing is left behind.
    """
    with lock_run_folder(run.folder):
        bench = in_form(open_workbench(run.settings, run.folder, stages), request.container)
        rungs = choose_rungs(_exportable(bench, run.members), first, count)
        return export_rungs(bench, rungs, request.out or run.folder / "ladder", request.canaries)


def export_rungs(
    bench: Workbench, rungs: tuple[Member, ...], folder: Path, canaries: int | None
) -> list[Exported]:
    """The same of rungs that were chosen."""
    places = [f"{index}-{member.name}" for index, member in enumerate(rungs)]
    done: list[Exported] = []
    with written_whole(folder) as partial:
        for member, place in zip(rungs, places, strict=True):
            found = export_member(bench, member, partial / place, canaries=canaries)
            found["launch"] = bench.engine.launch_line(partial / place).replace(partial.name, folder.name)
            done.append({**found, "folder": str(folder / place)})
        _write_ladder(partial, ladder_file(rungs, places, done))
        point_at(partial / CURRENT, places[0])
    return done


def ladder_file(rungs: tuple[Member, ...], places: list[str], done: list[Exported]) -> LadderFile:
    """``ladder.json`` of exported members."""
    return LadderFile(
        rungs=tuple(
            Rung(
                folder=place,
                name=member.name,
                weight_bytes=found["weight_bytes"],
                kl=member.value("kl"),
                launch=found["launch"],
                trigger=default_trigger(member.value("kl")),
            )
            for member, place, found in zip(rungs, places, done, strict=True)
        )
    )


def ladder_lines(folder: Path, done: list[Exported]) -> str:
    """What people are told: the order, and how to begin."""
    lines = [f"rung {index}: {export_line(found)}" for index, found in enumerate(done)]
    return "\n".join(
        [
            *lines,
            f"{folder}/current points to rung 0; serve it, then: paretune monitor {folder} --endpoint URL",
        ]
    )


def _exportable(bench: Workbench, members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Members of the front that the engine's container can hold; says which are left out."""
    found = []
    for member in members:
        verdict = bench.engine.export_ruling(bench.spec, member.config)
        if member.on_front and not verdict:
            note(f"{member.name} is no rung: {verdict.reason}")
        elif member.on_front:
            found.append(member)
    return tuple(found)


def _kl(member: Member) -> float:
    kl = member.value("kl")
    return 0.0 if kl is None else kl


def _write_ladder(folder: Path, ladder: LadderFile) -> None:
    write_document(folder / LADDER, ladder)
