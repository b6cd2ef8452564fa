"""Where the loader of a form is found, and what ``transformers`` computes with it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.environments import Environment, find_environment, lacking, run_in_environment, variable
from paretune.engines.manifest import read_manifest
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import LEGAL, Ruling, illegal

if TYPE_CHECKING:
    import torch

    from paretune.engines.predictions import Predictions

_RUNNER = Path(__file__).with_name("runner.py")
_TIMEOUT_S = 1800.0


def loader_ruling(packages: tuple[str, ...]) -> Ruling:
    """Whether some interpreter has the packages; if not, how to install them."""
    try:
        _environment(packages)
    except EngineError as error:
        return illegal(f"{error.value} {error.rule}; {error.remedy}", packages[0])
    return LEGAL


def loaded_predictions(packages: tuple[str, ...], folder: Path, ids: torch.Tensor) -> Predictions:
    """See :meth:`paretune.engines.forms.form.Form.predictions`.

    Args:
        packages: that ``transformers`` needs to load the folder; the first names the environment.
        folder: an export.
        ids: int64 ``(windows, tokens)``.

    Raises:
        EngineError: no interpreter has the packages, or the folder cannot be loaded.
    """
    from paretune.engines.runner_predictions import runner_predictions

    where = _environment(packages)
    vocabulary = int(read_manifest(folder)["base"]["vocabulary"])
    return runner_predictions(
        lambda request: run_in_environment(where, _RUNNER, request, _TIMEOUT_S),
        folder.resolve(),  # the runner works in a folder of its own
        ids,
        vocabulary,
    )


def _environment(packages: tuple[str, ...]) -> Environment:
    """The environment of the first package, if it has the others and transformers too."""
    first = packages[0]
    remedy = (
        f"Install {' and '.join(packages)} beside transformers here, or in an environment of their own that"
        f" {variable(first)} names"
    )
    found = find_environment(first)
    if found is None:
        raise EngineError(first, "is not installed", remedy)
    absent = lacking(found, ("transformers", *packages))
    if absent:
        raise EngineError(f"{found.python}", f"lacks {' and '.join(absent)}", remedy)
    return found
