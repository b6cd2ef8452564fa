"""Recipes for pipelines that use a tool already: one line a tool; none of them is imported.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module

from paretune.engines.recipes.recipe import Recipe
from paretune.spaces.errors import UnknownNameError

_RECIPES = {
    "llm-compressor": "paretune.engines.recipes.llm_compressor:LlmCompressor",
    "modelopt": "paretune.engines.recipes.modelopt:ModelOpt",
    "gptqmodel": "paretune.engines.recipes.gptqmodel:GptqModel",
    "auto-round": "paretune.engines.recipes.auto_round:AutoRound",
    "torchao": "paretune.engines.recipes.torchao:TorchAo",
}


def recipe_names() -> tuple[str, ...]:
    """Every tool that recipes are written for."""
    return tuple(_RECIPES)


def find_recipe(name: str) -> Recipe:
    """The recipe of the tool called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _RECIPES:
        raise UnknownNameError("tool", name, _RECIPES)
    module, _, attribute = _RECIPES[name].partition(":")
    found = getattr(import_module(module), attribute)()
    if not isinstance(found, Recipe):
        raise TypeError(f"{_RECIPES[name]} is no Recipe")
    return found


__all__ = ["Recipe", "find_recipe", "recipe_names"]
