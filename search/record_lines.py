"""The form of ``records.jsonl`` and ``configurations.jsonl``: a checksum in every line, every configuration once.

A candidate has hundreds of layers whose names and formats are those of its neighbours. So the names and the choices
are written when they first occur, and a configuration is one small number per layer; records point to it by its
digest, and readings of the same windows to the first of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ParetuneError, RunError
from paretune.spaces.files import FileKind, append_line, drop_torn_line, read_bytes
from paretune.spaces.schema import canonical_json

CONFIGURATIONS = "configurations.jsonl"
_SEAL = re.compile(rb'(.*),"check":"([0-9a-f]{16})"}', re.DOTALL)
_UNTOUCHED = -1
_LINES = FileKind(
    "file", RunError, "Restore the file from a copy, or choose another folder with --out", 1 << 36
)


def sealed(values: Mapping[str, Any]) -> str:
    """One line of JSON that ends with the beginning of the SHA-256 of the rest."""
    text = canonical_json(dict(values))
    return f'{text[:-1]},"check":"{_check(text.encode("ascii"))}"}}'


def unsealed(line: bytes, place: str) -> dict[str, Any]:
    """The values of a line.

    Raises:
        RunError: a byte of it is another than was written; ``place`` says of what line.
    """
    found = _SEAL.fullmatch(line)
    if found is None or _check(found[1] + b"}") != found[2].decode("ascii"):
        raise damaged(place, "is not what was written: its checksum differs")
    values = json.loads(found[1] + b"}")
    if not isinstance(values, dict):
        raise damaged(place, "is no object")
    return values


def read_sealed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of a file, and what to call it; nothing where there is no file. A torn last line is left out.

    Raises:
        RunError: a line was changed, or the file cannot be read.
    """
    if not path.exists():
        return
    content = read_bytes(path, _LINES)
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        place = f"line {number} of {path}"
        yield place, unsealed(line, place)


def damaged(place: str, rule: str) -> RunError:
    """The refusal of a line that no search has written."""
    return RunError(place, rule, _LINES.remedy)


class Configurations:
    """Every configuration that a record points to, by digest; in ``configurations.jsonl`` once.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONFIGURATIONS
        self._layers: dict[str, int] = {}
        self._choices: dict[LayerChoice, int] = {}
        self._known: dict[str, CompressionConfig] = {}
        if self.path.exists():
            drop_torn_line(self.path)
        for place, values in read_sealed(self.path):
            self._read(place, values)

    def get(self, digest: str) -> CompressionConfig | None:
        """The configuration of this digest, if it is there."""
        return self._known.get(digest)

    def keep(self, config: CompressionConfig) -> None:
        """Write a configuration unless it is there.

        Raises:
            RunError: the disk is full.
        """
        if config.digest in self._known:
            return
        layers = [name for name in config.layers if name not in self._layers]
        choices = [c for c in dict.fromkeys(config.layers.values()) if c not in self._choices]
        names = {**self._layers, **{name: len(self._layers) + i for i, name in enumerate(layers)}}
        numbers = {**self._choices, **{c: len(self._choices) + i for i, c in enumerate(choices)}}
        chosen = [_UNTOUCHED] * (1 + max((names[name] for name in config.layers), default=-1))
        for name, choice in config.layers.items():
            chosen[names[name]] = numbers[choice]
        values = {
            "digest": config.digest,
            "kv": config.kv.model_dump(mode="json", exclude_defaults=True),
            "pruned": config.pruned.model_dump(mode="json", exclude_defaults=True),
            "layers": layers,
            "choices": [choice.model_dump(mode="json", exclude_defaults=True) for choice in choices],
            "chosen": chosen,
        }
        append_line(self.path, sealed({key: value for key, value in values.items() if value}))
        self._layers, self._choices = names, numbers
        self._known[config.digest] = config

    def _read(self, place: str, values: Mapping[str, Any]) -> None:
        try:
            for name in values.get("layers", ()):
                self._layers[name] = len(self._layers)
            for choice in values.get("choices", ()):
                self._choices[LayerChoice.model_validate(choice)] = len(self._choices)
            layers, choices = list(self._layers), list(self._choices)
            config = CompressionConfig(
                layers={layers[i]: choices[c] for i, c in enumerate(values.get("chosen", ())) if c >= 0},
                kv=KVFormat.model_validate(values.get("kv", {})),
                pruned=PrunedShape.model_validate(values.get("pruned", {})),
            )
        except (ValueError, TypeError, LookupError, ParetuneError) as error:
            raise damaged(place, "is no configuration of this version") from error
        if config.digest != values.get("digest") or config.digest in self._known:
            raise damaged(
                place, f"names another configuration ({str(values.get('digest'))[:12]}), or one twice"
            )
        self._known[config.digest] = config


def _check(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
