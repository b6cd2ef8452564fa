"""A run folder as the reports see it: ``front.json``, ``run.json`` and the lines of ``records.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from paretune.reports.compared import FILE as COMPARED
from paretune.reports.compared import ComparedFile
from paretune.search.records import read_lines
from paretune.spaces.errors import RunError
from paretune.spaces.files import FileKind, read_document, refusing
from paretune.spaces.result import FrontFile, RunDocument
from paretune.spaces.schema import Document

Read = TypeVar("Read", bound=Document)
_OF_RUN = FileKind("file", RunError, "Search again: a resumed search writes it anew", 1 << 36)


@dataclass(frozen=True)
class Trial:
    """What a report needs of one line of ``records.jsonl``.

    Attributes:
        index: position in the file.
        name: of the candidate.
        sampler: who proposed it.
        text: that it was read on.
        tokens: paid for by this reading.
        evaluations: the same in units of 16,384 tokens.
        seconds: wall time of scoring.
        values: metric values in SI units.
    """

    index: int
    digest: str
    name: str
    sampler: str
    text: str
    tokens: int
    evaluations: float
    seconds: float
    values: dict[str, float]


@dataclass(frozen=True)
class RunFolder:
    """Everything that the reports start from.

    Attributes:
        path: of the folder.
        trials: in order; empty where ``records.jsonl`` is absent.
        compared: models beside the front, ``None`` where nobody compared any.
    """

    path: Path
    front: FrontFile
    run: RunDocument
    trials: tuple[Trial, ...]
    compared: ComparedFile | None = None


def read_run_folder(folder: Path) -> RunFolder:
    """Read the files of a finished (or interrupted) run.

    Raises:
        RunError: no such folder, a file is missing, or is not what its schema says.
    """
    require_folder(folder)
    front = read_front(folder)
    run = _document(folder / "run.json", RunDocument)
    trials = tuple(read_trials(folder / "records.jsonl"))
    return RunFolder(folder, front, run, trials, read_compared(folder, run))


def require_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        RunError: it is none.
    """
    if not folder.is_dir():
        raise RunError(
            f"run folder {folder}", "does not exist", "Give the folder that `paretune search` wrote"
        )


def read_front(folder: Path) -> FrontFile:
    """``front.json`` of a run folder.

    Raises:
        RunError: it is missing, or is not what its schema says.
    """
    return _document(folder / "front.json", FrontFile)


def read_compared(folder: Path, run: RunDocument) -> ComparedFile | None:
    """``compared.json`` of a run folder, ``None`` where there is none.

    Raises:
        RunError: it is not what its schema says, or belongs to another model or text.
    """
    path = folder / COMPARED
    if not path.exists():
        return None
    found = _document(path, ComparedFile)
    found.check_run(run, str(path))
    return found


def read_trials(path: Path) -> Iterator[Trial]:
    """The lines of ``records.jsonl``; a torn last line (the process was killed) is left out.

    Raises:
        RunError: a line was changed, lost or moved.
    """
    for place, line in read_lines(path):
        with refusing(place, _OF_RUN):
            yield _trial(line)


def _trial(line: Mapping[str, Any]) -> Trial:
    # Plain JSON on purpose: validating thousands of configurations would take longer than the whole report.
    return Trial(
        index=int(line["index"]),
        digest=str(line["digest"]),
        name=str(line["name"]),
        sampler=str(line["sampler"]),
        text=str(line["fidelity"]["text"]),
        tokens=int(line["tokens"]),
        evaluations=float(line["evaluations"]),
        seconds=float(line["seconds"]),
        values={name: float(found["value"]) for name, found in line["measurements"].items()},
    )


def _document(path: Path, kind: type[Read]) -> Read:
    if not path.exists():
        raise RunError(
            f"{path}",
            "is missing: the search has not written its front yet",
            "Run or resume `paretune search`",
        )
    return read_document(path, kind, _OF_RUN)
