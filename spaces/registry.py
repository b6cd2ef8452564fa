"""Plug-ins by name: one registry for every kind, one line in it for every plug-in."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Generic, TypeVar

from paretune.spaces.errors import UnknownNameError

Plugin = TypeVar("Plugin")


class Registry(Generic[Plugin]):
    """Plug-ins of one kind; the module of one is imported when it is asked for, so that a registry costs nothing.

    Args:
        kind: what a plug-in is called, for the message about a name that nobody registered.
        package: that holds the modules.
        places: ``module:attribute`` by name. A class is made without arguments each time; anything else is the plug-in.
        classes: whether the plug-ins are the classes themselves.
    """

    def __init__(self, kind: str, package: str, places: dict[str, str], classes: bool = False) -> None:
        self._kind = kind
        self._package = package
        self._places = places
        self._classes = classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def names(self) -> tuple[str, ...]:
        """Every registered name, in the order of registration."""
        return tuple(self._places)

    def find(self, name: str) -> Plugin:
        """The plug-in called ``name``.

        Raises:
            UnknownNameError: there is none.
        """
        if name not in self._places:
            raise UnknownNameError(self._kind, name, self._places)
        module, _, attribute = self._places[name].partition(":")
        found = getattr(import_module(f"{self._package}.{module}"), attribute)
        plugin: Plugin = found() if isinstance(found, type) and not self._classes else found
        return plugin
