"""The ladder: exports in the order to fall back in, the trigger of each step, and the rung that is on.

``ladder.json`` lies beside the folders of its rungs, and so does the link ``current``, which is what a server is
started on: the rung that it points to is on, whoever moved it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator

from paretune.engines.manifest import MANIFEST, read_manifest
from paretune.monitoring.errors import MonitorError
from paretune.monitoring.limits import Limit
from paretune.spaces.files import FileKind, read_document
from paretune.spaces.schema import Document, Frozen

LADDER = "ladder.json"
CURRENT = "current"

_TOLERANCE = 1e-3
_RELATIVE_TOLERANCE = 0.02
"""What an export may differ from its candidate when it is verified, absolutely and by the candidate's own KL."""
_TOLERANCES = 10.0
"""Of them make another candidate, and not rounding."""


class Rung(Frozen):
    """One export.

    Attributes:
        folder: beside ``ladder.json``; no path leaves it.
        name: of the candidate.
        weight_bytes: of the export.
        kl: of the candidate to the dense model, nat a token on held-out text.
        launch: line that runs it.
        trigger: when the next rung takes its place.
    """

    folder: str
    name: str
    weight_bytes: float | None
    kl: float | None
    launch: str
    trigger: Limit

    @field_validator("folder")
    @classmethod
    def _inside(cls, folder: str) -> str:
        if len(PurePosixPath(folder).parts) != 1 or folder in ("", ".", "..", "/") or "\\" in folder:
            raise ValueError(f"folder {folder!r} is no name beside {LADDER}")
        return folder


class LadderFile(Document):
    """``ladder.json``: rungs in the order to fall back in."""

    rungs: tuple[Rung, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Ladder:
    """Rungs and where they are.

    Attributes:
        folder: that the rungs lie in.
        rungs: first the one to begin with.
        link: that points to the rung that is on; ``None`` where there is one rung and nothing to switch.
    """

    folder: Path
    rungs: tuple[Rung, ...]
    link: Path | None

    def place(self, index: int) -> Path:
        """Folder of a rung."""
        return self.folder / self.rungs[index].folder

    def on(self) -> int:
        """The rung that is on.

        Raises:
            MonitorError: the link is absent or points to none of them.
        """
        if self.link is None:
            return 0
        try:
            target = self.link.parent / self.link.readlink()
        except OSError as error:
            raise MonitorError(
                f"link {self.link}", f"cannot be read ({error.strerror})", "Let it point to a rung's folder"
            ) from error
        for index in range(len(self.rungs)):
            if target.resolve() == self.place(index).resolve():
                return index
        raise MonitorError(
            f"link {self.link}", f"points to {target}, no rung", "Let it point to a rung's folder"
        )

    def next(self, index: int) -> int | None:
        """The rung to fall back to, ``None`` from the last."""
        return index + 1 if index + 1 < len(self.rungs) else None

    def find(self, wanted: int | str) -> int:
        """A rung by its place in the order, its folder or its name.

        Raises:
            MonitorError: there is none.
        """
        for index, rung in enumerate(self.rungs):
            if wanted in (index, rung.folder, rung.name):
                return index
        known = ", ".join(rung.folder for rung in self.rungs)
        raise MonitorError(f"rung {wanted!r}", "is not on the ladder", f"Known: {known}")


def default_trigger(kl: float | None) -> Limit:
    """Ten tolerances of a verified export: ``max(0.01, 20 %)`` of what the candidate itself lost, in nats."""
    return Limit(
        metric="drift_nats",
        limit=_TOLERANCES * max(_TOLERANCE, _RELATIVE_TOLERANCE * (kl or 0.0)),
        in_a_row=3,
    )


def read_ladder(folder: Path, link: Path | None = None) -> Ladder:
    """A ladder, or an export alone as a ladder of one rung.

    Args:
        folder: with ``ladder.json``, or of an export.
        link: that points to the rung that is on; ``current`` in the folder if left out.

    Raises:
        MonitorError: it is neither, or the file is not what its schema says.
        VerificationError: the manifest of an export cannot be read.
    """
    file = folder / LADDER
    if not file.is_file():
        return _alone(folder)
    found = read_document(
        file, LadderFile, FileKind("ladder", MonitorError, "Export it again with --ladder N")
    )
    return Ladder(folder, found.rungs, link or folder / CURRENT)


def _alone(folder: Path) -> Ladder:
    if not (folder / MANIFEST).is_file():
        raise MonitorError(
            f"folder {folder}", f"has neither {LADDER} nor {MANIFEST}", "Name a ladder or an export"
        )
    manifest, place = read_manifest(folder), folder.resolve()
    kl = (manifest.get("figures") or {}).get("kl")
    rung = Rung(
        folder=place.name,
        name=str(manifest.get("name", place.name)),
        weight_bytes=manifest.get("weight_bytes"),
        kl=kl,
        launch="",
        trigger=default_trigger(kl),
    )
    return Ladder(place.parent, (rung,), None)
