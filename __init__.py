"""Paretune: a hardware-aware, multi-objective search for compressed language models.

``paretune.search(...)`` and its like are the commands in Python; see ``docs/python.md``. Importing this package loads
next to nothing: a name is imported when it is first asked for.

``paretune.search`` is a package of the search's parts as well. Importing any of them makes it an attribute here, so the
package itself is what is called: ``paretune.search(...)`` and ``from paretune.search.study import Study`` both hold,
whichever comes first.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from paretune.pipeline.api import (
        advise,
        check,
        inspect,
        list_engines,
        load_run,
        plan,
        profile,
        search,
        transform,
        verify,
    )
    from paretune.pipeline.progress import Step
    from paretune.pipeline.run import Run
    from paretune.spaces.errors import LimitError, ParetuneError

__all__ = [
    "LimitError", "ParetuneError", "Run", "Step", "advise", "check", "inspect", "list_engines", "load_run", "plan",
    "profile", "search", "transform", "verify",
]  # fmt: skip

_ELSEWHERE = {
    "Run": "pipeline.run",
    "Step": "pipeline.progress",
    "LimitError": "spaces.errors",
    "ParetuneError": "spaces.errors",
}
"""What does not come from ``pipeline.api``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'paretune' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"paretune.{_ELSEWHERE.get(name, 'pipeline.api')}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Search(ModuleType):
    """The package ``paretune.search``, which is called as :func:`paretune.pipeline.api.search`."""

    def __call__(self, *given: Any, **words: Any) -> Run:
        """See :func:`paretune.pipeline.api.search`."""
        run: Run = _search()(*given, **words)
        return run

    @property
    def __signature__(self) -> Signature:
        from inspect import signature

        return signature(_search())


def _search() -> Any:
    return import_module("paretune.pipeline.api").search


import_module("paretune.search").__class__ = _Search
