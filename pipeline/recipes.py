"""A member of a front in the words of a tool that a pipeline uses already; no model is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from paretune.engines.recipes import find_recipe
from paretune.pipeline.models import read_spec
from paretune.spaces.cache_format import KVFormat

if TYPE_CHECKING:
    from paretune.pipeline.run import Run


@dataclass(frozen=True)
class Recipe:
    """What a tool reads.

    Attributes:
        member: name in the front.
        tool: with its version.
        file_name: that the tool expects.
        text: of the file.
        notes: what a person has to know.
    """

    member: str
    tool: str
    file_name: str
    text: str
    notes: tuple[str, ...]


def recipe_of(run: Run, tool: str, name: str | None, *, weights_only: bool) -> Recipe:
    """The formats of a member for a tool.

    Raises:
        ParetuneError: see :meth:`paretune.pipeline.run.Run.recipe`.
    """
    writer, member, settings = find_recipe(tool), run.member(name), run.settings
    spec, config, notes = read_spec(settings.model, settings.revision), member.config, []
    if weights_only and config.kv != KVFormat():
        notes = [f"{member.name} was searched with a cache of {config.kv.name}, which the recipe leaves out"]
        config = config.replaced(kv=KVFormat())
    text = writer.text(spec, config)
    notes += writer.notes(spec, config)
    return Recipe(member.name, f"{tool} {writer.version}", writer.file_name, text, tuple(notes))
