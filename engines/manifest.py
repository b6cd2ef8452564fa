"""``paretune.json``: what an export is, where it comes from, and hashes of its files.

An engine sees a folder only after :func:`check_files` has found every file to be the one that was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from paretune.engines.engine import ExportCard
from paretune.engines.export_folder import base_licence
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import VerificationError
from paretune.spaces.files import (
    FileKind,
    inside,
    parse_document,
    read_sealed,
    sha256_of_file,
    write_json,
)
from paretune.spaces.model import ModelSpec
from paretune.spaces.schema import sealed
from paretune.spaces.size import average_bits, weight_bytes

MANIFEST = "paretune.json"
SCHEMA_VERSION = 2
_KINDS: dict[str, type] = {
    "name": str, "engine": str, "form": str, "digest": str, "config": dict, "run": dict, "figures": dict, "base": dict,
    "weight_bytes": int, "tensor_parallel": int,
}  # fmt: skip
EXPORTED = FileKind("exported file", VerificationError, "Copy the export again")
_MANIFEST = FileKind("manifest", VerificationError, "Export again; it is written last")


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
            file.relative_to(folder).as_posix(): sha256_of_file(file, EXPORTED)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }
    write_json(folder / MANIFEST, sealed(values))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export: an object with a table of files, and with a configuration where it is of a candidate.

    Raises:
        VerificationError: there is none that can be read.
    """
    file = folder / MANIFEST
    found = read_sealed(file, _MANIFEST)
    files = found.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise _MANIFEST.refusal(file, "has no table of files with their hashes")
    for key, kind in _KINDS.items():
        if not isinstance(found.get(key, kind()), kind):
            raise _MANIFEST.refusal(file, f"has a wrong {key}")
    if not all(isinstance(value, int | float | None) for value in found.get("figures", {}).values()):
        raise _MANIFEST.refusal(file, "has figures that are no numbers")
    return found


def base_vocabulary(folder: Path) -> int:
    """Tokens of the model that an export was made from.

    Raises:
        VerificationError: there is no manifest that can be read, or it does not say.
    """
    found = read_manifest(folder).get("base", {}).get("vocabulary")
    if not isinstance(found, int):
        raise _MANIFEST.refusal(folder / MANIFEST, "does not say how many tokens the model has")
    return found


def manifest_config(manifest: Mapping[str, Any], folder: Path) -> CompressionConfig:
    """The configuration of the candidate that an export was made from.

    Raises:
        VerificationError: the manifest has none, or another than its digest says.
    """
    file = folder / MANIFEST
    config = parse_document(json.dumps(manifest.get("config")), CompressionConfig, file, _MANIFEST)
    if config.digest != manifest.get("digest"):
        raise _MANIFEST.refusal(file, "has a configuration that is not what its digest says")
    return config


def check_files(folder: Path) -> None:
    """Compare every file with its hash in the manifest.

    Raises:
        VerificationError: a file is absent, another, unknown to the manifest, or outside the folder; there is a link;
            or there is no manifest.
    """
    files = read_manifest(folder)["files"]
    for link in _links_of(folder):
        raise VerificationError(
            f"link {link}", "exports have no links", "Do not load it; copy the export again"
        )
    for name, digest in files.items():
        file = listed_file(folder, name)
        if not file.is_file():
            raise EXPORTED.refusal(file, f"is absent, and {MANIFEST} lists it")
        if sha256_of_file(file, EXPORTED) != digest:
            raise EXPORTED.refusal(file, f"is not what {MANIFEST} says")
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if not file.is_dir() and name not in files and name != MANIFEST:
            raise VerificationError(
                f"file {file}", f"is unknown to {MANIFEST}", "Delete it, or copy the export again"
            )


def listed_file(folder: Path, name: str) -> Path:
    """A file of the manifest.

    Raises:
        VerificationError: its name leaves the folder.
    """
    file = inside(folder, name)
    if file is None:
        raise VerificationError(
            f"path {name!r} in {folder / MANIFEST}", "leaves the export", "Do not load it; export again"
        )
    return file


def _links_of(folder: Path) -> Iterator[Path]:
    """Links below a folder, to files, to folders and to nothing."""
    for place, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(place, name)).is_symlink())
