"""Typed reading of ``config.json``, in the spellings of transformers 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from paretune.spaces.errors import ModelError

Dtype = Literal["bfloat16", "float16", "float32"]

_DTYPES: dict[str, Dtype] = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}


class ConfigFields:
    """A ``config.json`` that is read key by key, with the family's defaults behind it.

    Args:
        values: the parsed file.
        where: the file, for error messages.
        defaults: what transformers' configuration class assumes where the file is silent.
    """

    def __init__(self, values: Mapping[str, Any], where: str, defaults: Mapping[str, Any]) -> None:
        self.values = values
        self.where = where
        self.defaults = defaults

    def get(self, *names: str) -> Any:
        """The first of several spellings that the file has; a null there is ``None``, not the default."""
        present = [name for name in names if name in self.values]
        for name in present:
            if self.values[name] is not None:
                return self.values[name]
        if present:
            return None
        return next((self.defaults[name] for name in names if name in self.defaults), None)

    def integer(self, *names: str, minimum: int = 1) -> int:
        """A required whole number.

        Raises:
            ModelError: it is absent, not a whole number or below ``minimum``.
        """
        found = self.get(*names)
        if isinstance(found, bool) or not isinstance(found, int) or found < minimum:
            raise ModelError(
                f"{names[0]} = {found!r} in {self.where}",
                f"must be a whole number of at least {minimum}",
                "Check that the file is complete and belongs to this model",
            )
        return found

    def optional_integer(self, *names: str) -> int | None:
        """A whole number, or ``None`` where file and defaults are silent."""
        return None if self.get(*names) is None else self.integer(*names)

    def flag(self, *names: str) -> bool:
        """A boolean; absent is false.

        Raises:
            ModelError: it is something else.
        """
        found = self.get(*names)
        if found is None:
            return False
        if not isinstance(found, bool):
            raise ModelError(
                f"{names[0]} = {found!r} in {self.where}", "must be true or false", "Correct the file"
            )
        return found

    def nested(self, name: str, defaults: Mapping[str, Any]) -> ConfigFields:
        """The object below ``name``, with defaults of its own.

        Raises:
            ModelError: it is no object.
        """
        found = self.values.get(name) or {}
        if not isinstance(found, dict):
            raise ModelError(f"{name} of {self.where}", "must be an object", "Correct the file")
        return ConfigFields(found, f"{self.where} ({name})", defaults)

    def dtype(self) -> Dtype | None:
        """How the weights are stored: ``dtype`` (transformers 5) or ``torch_dtype`` (4); ``None`` if unsaid.

        Raises:
            ModelError: a type that is no unquantized floating point number.
        """
        found = self.get("dtype", "torch_dtype")
        if found is None or found == "auto":
            return None
        name = str(found).removeprefix("torch.")
        if name not in _DTYPES:
            raise ModelError(
                f"dtype {found!r} in {self.where}",
                "weights must be bfloat16, float16 or float32",
                "Start from the unquantized checkpoint",
            )
        return _DTYPES[name]

    def windows(self, blocks: int, fallback: tuple[bool, ...] | None = None) -> tuple[int | None, ...]:
        """Sliding window of each block in tokens, ``None`` where a block attends to everything.

        Args:
            blocks: how many there are.
            fallback: which blocks slide where the file has no ``layer_types``; ``None``: all, if there is a
                window.

        Raises:
            ModelError: ``layer_types`` has another length or holds an unknown kind of layer.
        """
        window = self.optional_integer("sliding_window")
        kinds = self.get("layer_types")
        if kinds is None:
            slides = (True,) * blocks if fallback is None else fallback
            return tuple(window if sliding else None for sliding in slides)
        known = {"full_attention": None, "sliding_attention": window}
        if len(kinds) != blocks or any(kind not in known for kind in kinds):
            raise ModelError(
                f"layer_types = {kinds} in {self.where}",
                f"must name full_attention or sliding_attention for each of {blocks} blocks",
                "Other kinds of layers are not supported yet",
            )
        return tuple(known[kind] for kind in kinds)
