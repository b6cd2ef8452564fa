"""``paretune transform MODEL --out FOLDER``: the same model with its outliers spread, for formats with 8-bit inputs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from paretune.compressors.transforms import Transform


def transform(
    model: Annotated[str, typer.Argument(help="Model folder, hub id, or 'embedded'.")],
    out: Annotated[Path, typer.Option(help="Folder to write; absent or empty.")],
    method: Annotated[
        str,
        typer.Option(
            help="smoothquant (moves outliers of inputs into weights, by a strength searched in every place) or "
            "hadamard (rotates the residual stream and each head's values; a tied head becomes a matrix of its own)."
        ),
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Calibration text of the search to come; repeat for more. smoothquant needs one; hadamard without "
            "it is compared on random tokens, and W8A8 is not told. The embedded model brings its own."
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=2, help="Windows measured on, and as many others compared on (count).")
    ] = 64,
    window_tokens: Annotated[int, typer.Option(min=16, help="Tokens of a window.")] = 256,
    dtype: Annotated[
        str | None,
        typer.Option(help="Stored weights: float32, bfloat16 or float16; as they came if left out."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> int:
    """Write the same model with its outliers spread, so that 8-bit inputs cost less; exit code 1 if it is not the same.

    What is written is a plain checkpoint that is searched like any other. It is loaded again, and its KL to the
    original (nat a token) must be what rounding explains. Needs the whole model in memory, 4 bytes a parameter.

    Refused: decoders outside the families of the README and OPT with norms behind the residual sum (it is not known
    what reads their norms); by hadamard also GPT-2, GPT-NeoX and OPT (their LayerNorms subtract a mean, which a
    rotation does not keep) and Gemma (norms with gains stand between its blocks and the residual stream).
    """
    from paretune.pipeline.models import EMBEDDED, model_folder
    from paretune.pipeline.output import Stages
    from paretune.pipeline.transforming import read_transform_texts, transform_model, write_note
    from paretune.spaces.architectures import read_model
    from paretune.spaces.files import written_whole

    chosen, stored_as = _named(method, dtype)
    texts = list(text or ())
    if model == EMBEDDED and not texts:
        from paretune import demo

        texts = [demo.TEXTS / "calibration.txt"]
    _require_text(chosen, model, texts)
    with written_whole(out) as partial:
        source = model_folder(model, revision)
        spec = read_model(source, source=model, revision=revision)
        found = read_transform_texts(source, spec, texts, windows, window_tokens)
        stored = _torch_dtype(stored_as or spec.dtype)
        result = transform_model(chosen, spec, source, partial, found, stored, Stages(quiet))
        document = {
            "model": model, "revision": revision, "method": method, "version": chosen.version,
            "compared_on": "text" if texts else "random tokens", "windows": windows, "window_tokens": window_tokens,
            "untied": spec.tied and not result.done.spec.tied, **result.document(),
        }  # fmt: skip
        write_note(partial, document)
    # Where it is no help, the original is the better start: nothing of it was rounded once more.
    helped = result.eight_bits is None or result.eight_bits.helped
    line = _next(
        str(out) if helped else model, None if helped else revision, _search_texts(model, text or [])
    )
    _print(document | {"folder": str(out), "next": line}, json)
    return 0


def _named(method: str, dtype: str | None) -> tuple[Transform, str | None]:
    """Refuse what is not offered before anything is read.

    Raises:
        UnknownNameError: no such method or dtype.
    """
    from paretune.compressors.transforms import find_transform
    from paretune.pipeline.transforming import DTYPES, METHODS
    from paretune.spaces.errors import UnknownNameError

    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    if dtype is not None and dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    return find_transform(method), dtype


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _require_text(chosen: Transform, model: str, texts: list[Path]) -> None:
    from paretune.spaces.errors import TextError

    if chosen.needs_windows and not texts:
        raise TextError(
            f"no text for {model}",
            f"{chosen.name} measures inputs on a calibration text",
            "Give --text FILE, the calibration text of the search to come",
        )


def _next(model: str, revision: str | None, texts: list[Path]) -> str:
    """A search of ``model`` for 8-bit inputs; its report text must be none that the transformation saw."""
    from paretune.pipeline.transforming import EIGHT_BITS

    words = [
        "paretune",
        "search",
        model,
        *(["--revision", revision] if revision else []),
        "--format",
        EIGHT_BITS,
    ]
    if not texts:
        return shlex.join([*words, "--text", "FILE"])
    names = [*map(str, texts), "FILE", "FILE"]
    for option, name in zip(("--calibration-text", "--search-text", "--report-text"), names, strict=False):
        words += [option, name]
    return shlex.join(words)


def _search_texts(model: str, texts: list[Path]) -> list[Path]:
    """Those of the search to come that are known: its calibration text, or all three."""
    from paretune.pipeline.models import EMBEDDED

    if texts or model != EMBEDDED:
        return texts[:1]
    from paretune import demo

    return [demo.TEXTS / f"{name}.txt" for name in ("calibration", "search", "report")]


def _print(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(document, indent=2))
        return
    if document["strengths"]:
        _print_strengths(document["strengths"])
    for line in _lines(document):
        print(line)


def _print_strengths(strengths: dict[str, float | None]) -> None:
    """A row a block, a column a place."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    blocks: dict[str, dict[str, str]] = {}
    for name, strength in strengths.items():
        parts = name.split(".")
        index = next(place for place, part in enumerate(parts) if part.isdigit())
        shown = "-" if strength is None else f"{strength:.2f}"
        blocks.setdefault(parts[index], {})[".".join(parts[index + 1 :])] = shown
    places = list(dict.fromkeys(place for row in blocks.values() for place in row))
    table = Table("block", *places, box=SIMPLE, padding=(0, 0, 0, 1))
    for block, row in blocks.items():
        table.add_row(block, *(row.get(place, "") for place in places))
    print("Strength by block and input, searched for least error of W8A8")
    print("(1: the input becomes flat, 0: the weights do, -: best left as it was)")
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _lines(document: dict[str, Any]) -> list[str]:
    """What is said of it, a line each."""
    reasons: dict[str, list[str]] = {}
    for place, reason in document["left"].items():
        reasons.setdefault(reason, []).append(place)
    lines = [
        f"not changed: between the FFN's matrices in {len(places)} blocks ({reason})"
        for reason, places in reasons.items()
    ]
    if document["untied"]:
        lines.append("the head is no longer the embedding: the model has one matrix more")
    text = "other windows of the text" if document["compared_on"] == "text" else "windows of random tokens"
    lines.append(
        f"KL to the original, loaded again: {document['kl']:.2g} nat a token (rounding to {document['dtype']} explains "
        f"{document['tolerance']:.2g}); same top token {document['top1_agreement']:.2%}; {document['windows']} {text}"
    )
    if document["eight_bits"] is not None:
        lines.append(_eight_bits_line(document["eight_bits"]))
    wrote = f"wrote {document['folder']}, a plain checkpoint for formats that round inputs to 8 bits"
    return [*lines, wrote, f"next: {document['next']}"]


def _eight_bits_line(found: dict[str, Any]) -> str:
    verdict = "" if found["helped"] else ": no help, search the original"
    return (
        f"KL with every linear of the blocks in {found['format']}: {found['kl_after']:.3g}, of the original "
        f"{found['kl_before']:.3g} (difference +- {found['stderr_of_difference']:.2g}){verdict}"
    )
