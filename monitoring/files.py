"""Files of an export against the hashes in its manifest.

Canaries tell whether answers are right; a file can be damaged where no canary feels it. A file is read once, and again
when its size, time of change or place on the disk is another.
"""

from __future__ import annotations

from pathlib import Path

from paretune.engines.manifest import EXPORTED, read_manifest
from paretune.spaces.errors import VerificationError
from paretune.spaces.files import inside, sha256_of_file

Stamp = tuple[int, int, int]


class FileGuard:
    """Remembers what it has read."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Stamp, str]] = {}

    def altered(self, folder: Path) -> tuple[str, ...]:
        """Files that are absent or others than the manifest lists, by their names in it.

        Raises:
            VerificationError: the manifest cannot be read.
        """
        place = folder.resolve()
        listed = read_manifest(place)["files"]
        return tuple(name for name, digest in sorted(listed.items()) if self._digest(place, name) != digest)

    def _digest(self, folder: Path, name: str) -> str | None:
        file = inside(folder, name)
        if file is None:  # whatever lies there is no file of the export
            return None
        try:
            found = file.lstat()
            stamp = (found.st_size, found.st_mtime_ns, found.st_ino)
            known = self._known.get(file)
            if known is None or known[0] != stamp:
                known = self._known[file] = (stamp, sha256_of_file(file, EXPORTED))
        except (OSError, VerificationError):
            return None
        return known[1]
