"""``paretune recipe RUN --tool NAME``: a member of a front in the words of a tool that a pipeline uses already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def recipe(
    run: Annotated[Path, typer.Argument(help="Run folder that `paretune search` wrote.")],
    tool: Annotated[
        str, typer.Option(help="llm-compressor, modelopt (TensorRT-LLM), gptqmodel, auto-round or torchao.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Member of the front; the recommended configuration if left out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, or '-' for standard output; RUN/recipes/TOOL/... if left out."),
    ] = None,
    weights_only: Annotated[
        bool,
        typer.Option("--weights-only", help="Leave the format of the cache to whoever starts the server."),
    ] = False,
) -> int:
    """Write the formats of a member (bits, group size in weights) as a file that the tool reads; no model is run."""
    from paretune.engines.recipes import find_recipe
    from paretune.pipeline.exporting import wanted_member
    from paretune.pipeline.models import read_spec
    from paretune.pipeline.output import note
    from paretune.pipeline.run_file import validate_run
    from paretune.reports.reading import read_run_folder
    from paretune.spaces.cache_format import KVFormat
    from paretune.spaces.files import make_folder, write_whole

    writer, found = find_recipe(tool), read_run_folder(run)
    member = wanted_member(found.front, name)
    settings = validate_run(found.run.settings, f"{run}/run.json")
    spec = read_spec(settings.model, settings.revision)
    config = member.config
    if weights_only and config.kv != KVFormat():
        note(
            f"note: {member.name} was searched with a cache of {config.kv.name}, which the recipe leaves out"
        )
        config = config.replaced(kv=KVFormat())
    text = writer.text(spec, config)
    for line in writer.notes(spec, config):
        note(f"note: {line}")
    if out == Path("-"):
        print(text, end="")
        return 0
    path = out or run / "recipes" / tool / member.name / writer.file_name
    make_folder(path.parent)
    write_whole(path, text)
    print(f"wrote {member.name} for {tool} {writer.version} to {path}")
    return 0
