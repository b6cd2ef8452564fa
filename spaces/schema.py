"""Frozen values with a canonical JSON form.

Two values are the same if and only if their canonical JSON is the same; a digest is the SHA-256 of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

_CHECKSUM = "checksum"


class Frozen(BaseModel):
    """A value: immutable, hashable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def fields(self) -> dict[str, Any]:
        """Field values by name (``dict(value)`` would hold cached properties too)."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other fields, not validated; what was computed from the old ones is forgotten."""
        copy = super().model_copy(update=update, deep=deep)
        for name in [name for name in copy.__dict__ if name not in type(self).model_fields]:
            del copy.__dict__[name]
        return copy

    def to_json(self) -> str:
        """The canonical JSON text: sorted keys, no white space, ASCII."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The value whose :meth:`to_json` is ``text``."""
        return cls.model_validate_json(text)


class Document(Frozen):
    """A value that is written to disk by itself, so it carries the version of its schema."""

    schema_version: Literal[1] = 1


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """An object of JSON with a checksum of itself: a bit that flips on a disk must not become another number."""
    return {_CHECKSUM: sha256_of(values), **values}


def unsealed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The object that was sealed.

    Raises:
        ValueError: it is not what was written.
    """
    values = {name: value for name, value in found.items() if name != _CHECKSUM}
    if _CHECKSUM not in found:
        raise ValueError("it has no checksum: it was not written by Paretune, or was changed by hand")
    if found[_CHECKSUM] != sha256_of(values):
        raise ValueError("the checksum is another's: a part of it has changed since it was written")
    return values


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_of(value: Any) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
