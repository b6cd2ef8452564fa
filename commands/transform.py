"""``paretune transform MODEL --out FOLDER``: the same model with its outliers spread, for formats with 8-bit inputs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from paretune.commands import options as opt
from paretune.commands.printing import console, print_json, table
from paretune.spaces.numerals import with_error


def transform(
    model: opt.Model,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write; absent or empty.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="smoothquant (moves outliers of inputs into weights, by a strength searched in every place) or "
            "hadamard (rotates the residual stream and each head's values; a tied head becomes a matrix of its own).",
        ),
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Calibration text of the search to come; repeat for more. smoothquant needs one; hadamard without "
            "it is compared on random tokens, and W8A8 is not told. The embedded model brings its own.",
        ),
    ] = None,
    windows: Annotated[
        int,
        typer.Option(metavar="N", min=2, help="Windows measured on, and as many others compared on (count)."),
    ] = 64,
    window_tokens: opt.WindowTokens = 256,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Stored weights: float32, bfloat16 or float16; as they came if left out."
        ),
    ] = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Write the same model with its outliers spread, so that 8-bit inputs cost less; exit code 1 if it is not the same.

    What is written is a plain checkpoint that is searched like any other. It is loaded again, and its KL to the
    original (nat a token) must be what rounding explains. Needs the whole model in memory, 4 bytes a parameter.

    Refused: decoders outside the families of the README and OPT with norms behind the residual sum (it is not known
    what reads their norms); by hadamard also GPT-2, GPT-NeoX and OPT (their LayerNorms subtract a mean, which a
    rotation does not keep) and Gemma (norms with gains stand between its blocks and the residual stream).
    """
    from paretune.pipeline.api import transform as write_transformed

    result = write_transformed(
        model, out=out, method=method, text=text or (), windows=windows, window_tokens=window_tokens or 256,
        dtype=dtype, revision=revision, progress=not quiet,
    )  # fmt: skip
    better = (str(out), None) if result.helped else (model, revision)
    line = _next(*better, _search_texts(model, text or []))
    document = {**result.document(), "folder": str(out), "next": line}
    if json:
        print_json(document)
        return 0
    if document["strengths"]:
        _print_strengths(document["strengths"])
    print(*_lines(document), sep="\n")
    return 0


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


def _print_strengths(strengths: dict[str, float | None]) -> None:
    """A row per block, a column per place."""
    blocks: dict[str, dict[str, str]] = {}
    for name, strength in strengths.items():
        parts = name.split(".")
        index = next(place for place, part in enumerate(parts) if part.isdigit())
        shown = "-" if strength is None else f"{strength:.2f}"
        blocks.setdefault(parts[index], {})[".".join(parts[index + 1 :])] = shown
    places = list(dict.fromkeys(place for row in blocks.values() for place in row))
    page = table("block", *places)
    for block, row in blocks.items():
        page.add_row(block, *(row.get(place, "") for place in places))
    print("Strength by block and input, searched for least error of W8A8")
    print("(1: the input becomes flat, 0: the weights do, -: best left as it was)")
    console().print(page)


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
        f"{found['kl_before']:.3g} ({with_error(found['difference'], found['stderr_of_difference'])} less){verdict}"
    )
