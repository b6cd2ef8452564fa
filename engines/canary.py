"""Canaries of an export: prefixes of held-out text, and what its engine predicts after each when all is well.

The references are the engine's own predictions of the fresh, verified export, not the candidate's: the engine's
arithmetic is in them, so a healthy server answers them almost exactly and a small limit tells drift from rounding.
An engine predicts only from a finished folder, so the file comes after the manifest, which is then written anew.
Both appear by renaming. Canaries that are there already are taken off the list before others take their place, so
that a job that is killed anywhere between leaves at worst a file that the manifest does not list, which
:func:`discard_unlisted` removes before anything else is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from paretune.engines.manifest import EXPORTED, MANIFEST, read_manifest
from paretune.spaces.errors import RunError, TextError, VerificationError
from paretune.spaces.files import FileKind, read_document, sha256_of_file, write_whole
from paretune.spaces.schema import Document, Frozen, sealed

if TYPE_CHECKING:
    import torch

    from paretune.engines.engine import Engine
    from paretune.engines.predictions import Predictions

CANARIES = "canaries.json"
REFERENCE = "reference.npz"
"""What the searched candidate predicts: :mod:`paretune.engines.reference`."""
TOP = 20
"""Log-probabilities a canary: as many as vLLM's server returns unless it is told otherwise (``--max-logprobs``)."""

SHORTEST_TOKENS = 8
LONGEST_TOKENS = 64


class Canary(Frozen):
    """One prefix and the distribution after it.

    Attributes:
        ids: tokens of the prefix.
        text: that the tokenizer turns into exactly ``ids``; ``None`` where it turns into others.
        top_ids: the likeliest next tokens, likeliest first.
        top_tokens: their texts.
        log_probabilities: theirs, in nats, normalised over the whole vocabulary.
    """

    ids: tuple[int, ...]
    text: str | None
    top_ids: tuple[int, ...]
    top_tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Canary:
        if not self.ids or not self.top_ids:
            raise ValueError("a canary has a prefix and at least one reference")
        if not len(self.top_ids) == len(self.top_tokens) == len(self.log_probabilities):
            raise ValueError("a canary has as many tokens as log-probabilities")
        return self


class CanaryFile(Document):
    """``canaries.json``: who made the references, and the canaries."""

    engine: str
    engine_version: str
    canaries: tuple[Canary, ...]


def add_canaries(
    engine: Engine, folder: Path, windows: torch.Tensor, tokenizer: Any, count: int
) -> CanaryFile:
    """Write canaries into a verified export and list them in its manifest.

    Args:
        engine: that the export was written for; predicts in a fresh process.
        folder: of the export.
        windows: int64 ``(windows, tokens)`` of held-out text.
        tokenizer: of the model.
        count: of canaries.

    Raises:
        TextError: the windows are too short for so many different prefixes.
        EngineError: the engine does not load the export.
    """
    import torch

    lengths = prefix_lengths(count, int(windows.shape[1]))
    rows = torch.arange(count) % len(windows)
    found = engine.served_predictions(folder, windows[rows, : max(lengths)])
    canaries = [
        _canary(windows[row, :length].tolist(), found, index, tokenizer)
        for index, (row, length) in enumerate(zip(rows.tolist(), lengths, strict=True))
    ]
    file = CanaryFile(engine=engine.name, engine_version=engine.version(), canaries=tuple(canaries))
    add_listed(folder, CANARIES, _json(file.model_dump(mode="json")))
    return file


def add_listed(folder: Path, name: str, content: bytes) -> None:
    """Add a file to a finished export and list it in its manifest, instead of one of the same name.

    A job that is killed anywhere between leaves at worst a file that is not listed: :func:`discard_unlisted`.
    """
    manifest = read_manifest(folder)
    if manifest["files"].pop(name, None) is not None:
        _replace(folder / MANIFEST, _json(manifest))
    _replace(folder / name, content)
    manifest["files"][name] = sha256_of_file(folder / name, EXPORTED)
    _replace(folder / MANIFEST, _json(manifest))


def prefix_lengths(count: int, window_tokens: int) -> list[int]:
    """Different lengths in tokens, spread evenly from the shortest prefix to the longest.

    Raises:
        TextError: there are not so many different ones.
    """
    longest = min(LONGEST_TOKENS, window_tokens)
    if count < 1 or count > longest - SHORTEST_TOKENS + 1:
        raise TextError(
            f"{count} canaries from windows of {window_tokens} tokens",
            f"prefixes have {SHORTEST_TOKENS} to {LONGEST_TOKENS} tokens, each another number",
            f"Ask for 1 to {max(1, longest - SHORTEST_TOKENS + 1)}, or search with longer windows",
        )
    steps = max(1, count - 1)
    return [SHORTEST_TOKENS + (longest - SHORTEST_TOKENS) * index // steps for index in range(count)]


def read_canaries(folder: Path) -> CanaryFile:
    """The canaries of an export, once they are known to be those that its manifest lists. Loads no torch.

    Raises:
        RunError: it was exported without.
        VerificationError: they are others.
    """
    file = folder / CANARIES
    listed = read_manifest(folder)["files"].get(CANARIES)
    if listed is None or not file.is_file():
        raise RunError(
            f"export {folder}", "has no canaries", "Export it again with --canaries N or --ladder N"
        )
    if sha256_of_file(file, EXPORTED) != listed:
        raise VerificationError(f"file {file}", f"is not what {MANIFEST} says", "Copy the export again")
    return read_document(file, CanaryFile, FileKind("canaries", VerificationError, "Export again"))


def discard_unlisted(folder: Path) -> None:
    """Remove what an interrupted :func:`add_listed` left without listing it."""
    for name in (CANARIES, REFERENCE):
        file = folder / name
        if file.is_file() and name not in read_manifest(folder)["files"]:
            file.unlink()


def _canary(ids: list[int], found: Predictions, row: int, tokenizer: Any) -> Canary:
    values = found.log_probabilities[row, len(ids) - 1]
    best = values.topk(min(TOP, values.shape[-1]))
    named = best.indices if found.ids is None else found.ids[row, len(ids) - 1][best.indices]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return Canary(
        ids=tuple(ids),
        text=text if list(tokenizer.encode(text)) == ids else None,
        top_ids=tuple(named.tolist()),
        top_tokens=tuple(tokenizer.decode([token]) for token in named.tolist()),
        log_probabilities=tuple(best.values.tolist()),
    )


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(sealed(values), indent=2, sort_keys=True) + "\n").encode()


def _replace(file: Path, content: bytes) -> None:
    # Beside the folder, not in it: whatever is left there by a killed job would be unknown to the manifest.
    write_whole(file, content, scratch=file.parent.parent)
