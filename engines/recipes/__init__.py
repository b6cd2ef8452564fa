"""Recipes for pipelines that use a tool already: one line a tool; none of them is imported.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from paretune.engines.recipes.recipe import Recipe
from paretune.spaces.registry import Registry

RECIPES: Registry[Recipe] = Registry(
    "tool",
    __name__,
    {
        "llm-compressor": "llm_compressor:LlmCompressor",
        "modelopt": "modelopt:ModelOpt",
        "gptqmodel": "gptqmodel:GptqModel",
        "auto-round": "auto_round:AutoRound",
        "torchao": "torchao:TorchAo",
    },
)
recipe_names, find_recipe = RECIPES.names, RECIPES.find

__all__ = ["Recipe", "find_recipe", "recipe_names"]
