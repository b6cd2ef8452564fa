"""``paretune.json``: what an export is, where it comes from, and hashes of its files.

An engine sees a folder only after :func:`check_files` has found every file to be the one that was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from paretune.engines.engine import ExportCard
from paretune.engines.model_card import base_licence
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import VerificationError
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import average_bits, weight_bytes

MANIFEST = "paretune.json"
SCHEMA_VERSION = 2
_CHUNK_BYTES = 1 << 22


def write_manifest(
    folder: Path,
    spec: ModelSpec,
    config: CompressionConfig,
    card: ExportCard,
    *,
    engine: str,
    form: str = "",
    notes: Iterable[str] = (),
    packages: Iterable[str] = (),
) -> None:
    """Write the manifest of a folder that is otherwise complete.

    Args:
        folder: whose files are hashed.
        spec: of the dense model, as the engine's container stores it.
        config: of the candidate.
        card: what the export says about itself.
        engine: registered name of the engine that loads it.
        form: of the checkpoint, where it is not the engine's usual one.
        notes: what a user has to know.
        packages: whose versions are recorded.
    """
    values = {
        "schema_version": SCHEMA_VERSION,
        "name": card.name,
        "engine": engine,
        **({"form": form} if form else {}),
        "digest": config.digest,
        "config": config.model_dump(mode="json"),
        "weight_bytes": weight_bytes(spec, config),
        "tensor_parallel": card.tensor_parallel,
        "average_bits": average_bits(spec, config),
        "base": {
            "architecture": spec.architecture,
            "dtype": spec.dtype,
            "vocabulary": spec.vocabulary,
            "licence": base_licence(card.source),
        },
        "notes": list(notes),
        "run": dict(card.run),
        "figures": dict(card.figures),
        "versions": {name: metadata.version(name) for name in packages},
        "files": {
            file.relative_to(folder).as_posix(): sha256_of_file(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }
    write_json(folder / MANIFEST, values)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
        VerificationError: there is none that can be read.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found["files"], dict):
            raise ValueError("it has no table of files")
    except (OSError, ValueError, KeyError) as error:
        raise VerificationError(
            f"export {folder}", f"has no readable {MANIFEST} ({error})", "Export again; it is written last"
        ) from error
    return found


def check_files(folder: Path) -> None:
    """Compare every file with its hash in the manifest.

    Raises:
        VerificationError: a file is absent, another, unknown to the manifest, or outside the folder; or there is no
            manifest.
    """
    files = read_manifest(folder)["files"]
    for name, digest in files.items():
        file = folder / _inside(folder, name)
        if not file.is_file() or sha256_of_file(file) != digest:
            raise VerificationError(
                f"file {file}", f"is absent or not what {MANIFEST} says", "Copy the export again"
            )
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in files and name != MANIFEST:
            raise VerificationError(
                f"file {file}", f"is unknown to {MANIFEST}", "Delete it, or copy the export again"
            )


def _inside(folder: Path, name: str) -> PurePosixPath:
    """A path of the manifest, refused where it leaves the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or (folder / path).is_symlink():
        raise VerificationError(
            f"path {name!r} in {folder / MANIFEST}", "leaves the export", "Do not load it; export again"
        )
    return path


def sha256_of_file(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Sorted and indented, so that two exports can be compared by eye."""
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
