"""``paretune inspect MODEL``: layers, groups, bytes, and what is legal for an engine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from paretune.spaces.legality import FusedGroup
    from paretune.spaces.space import SearchSpace


def inspect(
    model: Annotated[str, typer.Argument(help="Model folder, hub id, or 'embedded'.")] = "embedded",
    engine: Annotated[str, typer.Option(help="Engine whose rules decide what is legal.")] = "torch-cpu",
    device: Annotated[str, typer.Option(help="Device name, or 'auto' for this machine.")] = "auto",
    group_size: Annotated[
        int, typer.Option(help="Weights that share a scale; 0: one scale a channel.")
    ] = 128,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List layers, groups, bytes (B) at every width, and what the engine refuses, with the reason."""
    from paretune.engines import find_engine
    from paretune.pipeline.models import read_spec
    from paretune.profiles.devices import detect_device, find_device
    from paretune.spaces.patterns import Restrictions
    from paretune.spaces.space import SearchSpace

    spec = read_spec(model, revision)
    chosen = find_engine(engine)
    target = detect_device(chosen.device_kind) if device == "auto" else find_device(device)
    restrictions = chosen.offered(Restrictions(group_size=group_size or None))
    space = SearchSpace(chosen.stored(spec), chosen.legality(target.name), restrictions)
    if json:
        _print_json(space)
    else:
        other = device == "auto" and chosen.device_kind != "cpu"
        print(f"{engine} on {target.name}{'; for another: --device h100' if other else ''}")
        _print_tables(space, engine)


def group_rows(space: SearchSpace) -> list[dict[str, object]]:
    """One row a group: its layers, shapes, dense bytes and the bytes of every legal choice."""
    return [
        {
            "group": parameter.group.name,
            "layers": list(parameter.group.layers),
            "shapes": [
                [space.spec.linear(layer).out_features, space.spec.linear(layer).in_features]
                for layer in parameter.group.layers
            ],
            "choices": {choice.name: _bytes(space, parameter.group, choice) for choice in parameter.choices},  # type: ignore[union-attr]
        }
        for parameter in space.parameters
        if parameter.group is not None
    ]


def _bytes(space: SearchSpace, group: FusedGroup, choice: object) -> int:
    from paretune.spaces.configuration import CompressionConfig
    from paretune.spaces.size import layer_bytes

    config = CompressionConfig.model_validate({"layers": dict.fromkeys(group.layers, choice)})
    return sum(layer_bytes(space.spec, space.spec.linear(layer), config).total for layer in group.layers)


def _print_json(space: SearchSpace) -> None:
    import json

    document = {
        "model": space.spec.model_dump(mode="json", exclude={"linears", "fixed"}),
        "groups": group_rows(space),
        "model_wide": {
            parameter.name: [getattr(choice, "name", choice) for choice in parameter.choices]
            for parameter in space.parameters
            if parameter.group is None
        },
        "refused": space.refused,
    }
    print(json.dumps(document, indent=2))


def _print_tables(space: SearchSpace, engine: str) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from paretune.spaces.size import dense_bytes

    spec = space.spec
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(
        f"{spec.source}: {spec.architecture}, {spec.parameters / 1e6:.1f} M parameters in {spec.blocks} blocks, "
        f"{dense_bytes(spec):,} B as it is ({spec.dtype})",
        highlight=False,
    )
    widths = sorted({bits for row in group_rows(space) for bits in _by_width(space, str(row["group"]))})
    rows = _folded(space)
    scale, unit = (1e6, "MB") if max(max(sizes.values()) for _, _, sizes in rows) >= 1e7 else (1e3, "kB")
    title = f"Size ({unit}) of a group by width (bit) for {engine}; --json has exact bytes"
    table = Table("group", "layers: rows x columns", title=title, box=SIMPLE, padding=(0, 0, 0, 1))
    for width in widths:
        table.add_column(str(width), justify="right", no_wrap=True)
    for name, layers, sizes in rows:
        table.add_row(
            name, layers, *(f"{sizes[width] / scale:,.1f}" if width in sizes else "-" for width in widths)
        )
    console.print(table)
    quantizers = ", ".join(_quantizers(space))
    console.print(f"quantizers: {quantizers}; zeros are stored like any other weight", highlight=False)
    size = sum(len(parameter.choices) > 1 for parameter in space.parameters)
    console.print(f"{size} parameters with a choice", highlight=False)
    for names in _same_reason(space.refused):
        more = f" and {len(names) - 1} more" if names[1:] else ""
        console.print(f"refused: {names[0]}{more}: {space.refused[names[0]]}", style="dim")


def _same_reason(refused: Mapping[str, str]) -> list[list[str]]:
    """What was refused (``GROUP: CHOICE``), by reason; reasons that differ only in the choice's name are one."""
    found: dict[str, list[str]] = {}
    for what, reason in refused.items():
        choice = what.rpartition(": ")[2]
        shared = reason.replace(choice, "*").replace(choice.partition("/")[0], "*")
        found.setdefault(shared, []).append(what)
    return list(found.values())


_WIDTH = 110
"""Columns where there is no terminal to ask."""


def _folded(space: SearchSpace) -> list[tuple[str, str, dict[int, int]]]:
    """Groups that differ only in the index of their block become one row: name, layers, bytes by width."""
    import re

    folded: dict[str, tuple[int, str, dict[int, int]]] = {}
    for row in group_rows(space):
        name, layers, shapes = str(row["group"]), list(row["layers"]), list(row["shapes"])  # type: ignore[call-overload]
        shown = ", ".join(
            f"{layer.rsplit('.', 1)[-1]} {rows}x{columns}"
            for layer, (rows, columns) in zip(layers, shapes, strict=True)
        )
        sizes = _by_width(space, name)
        key = f"{re.sub(r'[.][0-9]+[.]', '.*.', name)}|{shown}|{sizes}"
        count = folded[key][0] + 1 if key in folded else 1
        folded[key] = (count, shown, sizes)
    return [
        (key.split("|")[0] + (f" (x{count})" if count > 1 else ""), shown, sizes)
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
