"""``paretune inspect MODEL``: layers, groups, bytes, what is legal for an engine, and what a search would say first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from paretune.commands import options as opt
from paretune.commands.printing import console, print_json, table
from paretune.pipeline.words import SpaceWords, spelled

if TYPE_CHECKING:
    from paretune.pipeline.inspection import Inspection
    from paretune.spaces.space import SearchSpace


@spelled(SpaceWords, opt.WORDS)
def inspect(model: opt.Model = "embedded", *, json: opt.Json = False, **words: Any) -> None:
    """List the space of a search with these options: groups, bytes (B) at every width, what is refused and why."""
    from paretune.engines import find_engine
    from paretune.pipeline.api import inspect as look_at

    found = look_at(model, **opt.read_words(words))
    if json:
        print_json(found.document())
        return
    here = words.get("device") in (None, "auto")
    other = here and find_engine(found.engine).device_kind != "cpu"
    print(f"{found.engine} on {found.device.name}{'; for another: --device h100' if other else ''}")
    _print_tables(found)
    for said in found.refused_first:
        print(f"a search would say first: {said}")


def _print_tables(found: Inspection) -> None:
    from paretune.spaces.refusals import beside_language, by_reason, without_choice
    from paretune.spaces.size import dense_bytes

    space, spec, page = found.space, found.space.spec, console()
    stored = f"{dense_bytes(spec):,} B as it is ({spec.dtype})"
    if spec.shipped is not None:
        stored = f"{dense_bytes(spec):,} B as it ships ({spec.shipped.method}), dequantized to {spec.dtype}"
    page.print(
        f"{spec.source}: {spec.architecture}, {spec.parameters / 1e6:.1f} M weights in {spec.blocks} blocks, "
        f"{stored}"
    )
    for line in (*beside_language(spec), *without_choice(space)):
        page.print(line)
    rows = _folded(found)
    widths = sorted({width for _, _, sizes in rows for width in sizes})
    scale, unit = (1e6, "MB") if max(max(sizes.values()) for _, _, sizes in rows) >= 1e7 else (1e3, "kB")
    title = f"Size ({unit}) of a group by width (bit) for {found.engine}; --json has exact bytes"
    shown = table("group", title=title)
    shown.add_column("layers: rows x columns")
    for width in widths:
        shown.add_column(str(width), justify="right", no_wrap=True)
    for name, layers, sizes in rows:
        cells = (f"{sizes[width] / scale:,.1f}" if width in sizes else "-" for width in widths)
        shown.add_row(name, layers, *cells)
    page.print(shown)
    page.print(f"quantizers: {', '.join(_quantizers(space))}; zeros are stored like any other weight")
    page.print(
        f"a search chooses for {sum(len(parameter.choices) > 1 for parameter in space.parameters)} of these groups, "
        "sizes of a pruned model and the cache"
    )
    for reason, names in by_reason(space.refused).items():
        more = f" and {len(names) - 1} more" if names[1:] else ""
        page.print(f"refused: {names[0]}{more}: {reason}", style="dim")


def _folded(found: Inspection) -> list[tuple[str, str, dict[int, int]]]:
    """Groups that differ only in the index of their block become one row: name, layers, bytes by width."""
    folded: dict[str, tuple[int, str, dict[int, int]]] = {}
    for row in found.groups():
        shown = ", ".join(
            f"{layer.rsplit('.', 1)[-1]} {rows}x{columns}"
            for layer, (rows, columns) in zip(row["layers"], row["shapes"], strict=True)
        )
        sizes = _by_width(found.space, row["group"])
        key = f"{re.sub(r'[.][0-9]+[.]', '.*.', row['group'])}|{shown}|{sizes}"
        count = folded[key][0] + 1 if key in folded else 1
        folded[key] = (count, shown, sizes)
    return [
        (key.split("|")[0] + (f", {count} blocks" if count > 1 else ""), shown, sizes)
        for key, (count, shown, sizes) in folded.items()
    ]


def _by_width(space: SearchSpace, group: str) -> dict[int, int]:
    """Bytes of a group by width: of the first quantizer, nothing pruned."""
    from paretune.spaces.choice import LayerChoice

    parameter = space.parameters[space.index(group)]
    found: dict[int, int] = {}
    for choice, size in zip(parameter.choices, space.choice_bytes(parameter), strict=True):
        if isinstance(choice, LayerChoice) and choice.sparsity is None and size is not None:
            found.setdefault(choice.weight.num_bits, size)
    return found


def _quantizers(space: SearchSpace) -> list[str]:
    from paretune.spaces.choice import LayerChoice

    methods = [c.method for g in space.parameters for c in g.choices if isinstance(c, LayerChoice)]
    return [method for method in dict.fromkeys(methods) if method != "none"]
