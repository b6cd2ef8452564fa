"""``paretune verify EXPORT``: an engine loads an export; its predictions are held against the searched candidate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from paretune.engines.engine import Engine


def verify(
    export: Annotated[Path, typer.Argument(help="Folder of an export.")],
    engine: Annotated[
        str | None, typer.Option(help="Engine that loads it; the one that it was written for if left out.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder that it comes from; the one it lies in if left out.")
    ] = None,
    windows: Annotated[
        int, typer.Option(min=1, help="Windows of the report text that are read (count).")
    ] = 16,
    json: Annotated[bool, typer.Option("--json", help="Print JSON (nats) instead of a line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> int:
    """Check hashes, load the export in the engine, compare with the searched candidate; exit code 1 if another."""
    from paretune.engines.manifest import check_files, manifest_config, read_manifest
    from paretune.engines.verification import verify_export
    from paretune.pipeline.output import Stages
    from paretune.pipeline.run_file import validate_run
    from paretune.pipeline.verifying import (
        check_origin,
        kl_of,
        loading_engine,
        require_export,
        require_here,
        run_of,
        searched,
        where_they_part,
    )
    from paretune.pipeline.workbench import open_workbench
    from paretune.reports.reading import read_run_folder
    from paretune.spaces.errors import VerificationError

    require_export(export)
    check_files(export)
    manifest = read_manifest(export)
    chosen = loading_engine(manifest, engine)
    require_here(chosen)
    folder = run or run_of(export)
    stages = Stages(quiet)
    bench = open_workbench(
        validate_run(read_run_folder(folder).run.settings, f"{folder}/run.json"), folder, stages
    )
    check_origin(export, manifest, bench)
    config = manifest_config(manifest, export)
    ids = bench.windows["report"].ids[:windows]
    assembler = searched(bench, manifest, config, stages)
    try:
        found = verify_export(chosen, assembler, config, export, ids, kl_of_candidate=kl_of(manifest))
    except VerificationError as error:
        place = where_they_part(bench, assembler, chosen, export, manifest, ids)
        raise VerificationError(error.value, f"{error.rule}; {place}", error.remedy) from error
    _print(export, chosen, asdict(found), json)
    return 0


def _print(export: Path, engine: Engine, found: dict[str, Any], as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps({"export": str(export), "engine": engine.name, **found}))
        return
    note = f" ({found['note']})" if found["note"] else ""
    print(
        f"{export} in {engine.name} {engine.version()}: KL to the searched candidate {found['kl']:.2g} nat a token, "
        f"at most {found['tolerance']:.2g} allowed; {found['tokens']:,} tokens, "
        f"{found['top1_agreement']:.1%} of the likeliest tokens alike{note}"
    )
