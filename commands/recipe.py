"""``paretune recipe RUN --tool NAME``: a member of a front in the words of a tool that a pipeline uses already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json


def recipe(
    run: opt.RunFolder,
    tool: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="llm-compressor, modelopt (TensorRT-LLM), gptqmodel, auto-round or torchao."
        ),
    ],
    name: opt.Name = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write, or '-' for standard output; RUN/recipes/TOOL/... if left out.",
        ),
    ] = None,
    weights_only: Annotated[
        bool,
        typer.Option("--weights-only", help="Leave the format of the cache to whoever starts the server."),
    ] = False,
    json: opt.Json = False,
) -> int:
    """Write the formats of a member (bits, group size in weights) as a file that the tool reads; no model is run."""
    from paretune.pipeline.progress import note
    from paretune.pipeline.recipes import recipe_of
    from paretune.pipeline.run import Run
    from paretune.spaces.files import make_folder, write_whole

    found = recipe_of(Run(run), tool, name, weights_only=weights_only)
    for line in found.notes:
        note(f"note: {line}")
    if out == Path("-"):
        print(found.text, end="")
        return 0
    path = out or run / "recipes" / tool / found.member / found.file_name
    make_folder(path.parent)
    write_whole(path, found.text)
    if json:
        print_json({"name": found.member, "tool": found.tool, "file": str(path), "notes": found.notes})
    else:
        print(f"wrote {found.member} for {found.tool} to {path}")
    return 0
