"""The layer map: bits and zeros of every group of every block, one member at a time."""

from __future__ import annotations

from reports.comparison import front_members, picked
from reports.figures.figure import Figure, Trace, Variant, axis, base_layout, lines
from reports.numerals import digits, quantity
from reports.reading import RunFolder
from reports.wording import block_count, choice_words, configuration_words, part_of, site_groups
from spaces.legality import FusedGroup
from spaces.result import Member

WIDTHS = (2, 3, 4, 5, 6, 8, 16)
"""Steps of the colour scale; a width between two takes the colour of the next."""


def layer_figure(folder: RunFolder) -> Figure | None:
    """The map of each member with a configuration of its own; ``None`` where there is nothing to map."""
    groups = site_groups(folder.front, folder.run)
    inside = [group for group in groups if group.block is not None]
    members = _shown(folder)
    if not inside or not members:
        return None
    parts = tuple(dict.fromkeys(part_of(group) for group in inside))
    return Figure(
        name="layers",
        alternative="Bits of each group of linears in each block, one member at a time",
        variants=tuple(_variant(member, groups, parts) for member in members),
        control="list",
        control_label="Member",
        height=110 + 44 * len(parts),
    )


def _shown(folder: RunFolder) -> list[Member]:
    """The pick first, then the front from small to large, then probes."""
    pick = picked(folder.front)
    ordered = [*([pick] if pick else []), *front_members(folder.front)]
    ordered += [member for member in folder.front.members if member.kind == "probe"]
    return list({member.name: member for member in ordered}.values())


def _variant(member: Member, groups: tuple[FusedGroup, ...], parts: tuple[str, ...]) -> Variant:
    blocks = block_count(groups)
    labels = [str(block) for block in range(blocks)]
    found = {(part_of(group), group.block): group for group in groups if group.block is not None}
    layout = base_layout(
        xaxis=axis(
            "block", type="category", showgrid=False, ticks="", linewidth=0, dtick=1 if blocks <= 32 else 4
        ),
        yaxis=axis("", type="category", autorange="reversed", showgrid=False, ticks="", linewidth=0),
        margin={"l": 72, "r": 8, "t": 8, "b": 46},
    )
    data = [_heat(member, found, parts, labels), *_zeros(member, found, labels)]
    size = member.value("weight_bytes")
    label = member.name if size is None else f"{member.name} · {quantity(size, 'B')}"
    words = "  ·  ".join(configuration_words(member.config, groups, blocks))
    return Variant(label, data, layout, words)


def _heat(
    member: Member, found: dict[tuple[str, int], FusedGroup], parts: tuple[str, ...], labels: list[str]
) -> Trace:
    steps, texts, hovers = [], [], []
    for part in parts:
        cells = [_cell(member, found.get((part, block)), block) for block in range(len(labels))]
        steps.append([cell[0] for cell in cells])
        texts.append([cell[1] if len(labels) <= 40 else "" for cell in cells])
        hovers.append([cell[2] for cell in cells])
    return {
        "type": "heatmap",
        "x": labels,
        "y": list(parts),
        "z": steps,
        "zmin": -0.5,
        "zmax": len(WIDTHS) - 0.5,
        "colorscale": _scale(),
        "text": texts,
        "texttemplate": "%{text}",
        "textfont": {"size": 13},
        "hovertext": hovers,
        "hoverinfo": "text",
        "hoverongaps": False,
        "xgap": 3,
        "ygap": 3,
        "colorbar": {
            "title": {"text": "bits", "side": "top"},
            "tickvals": list(range(len(WIDTHS))),
            "ticktext": [str(width) for width in WIDTHS],
            "thickness": 14,
            "outlinewidth": 0,
            "len": 1,
        },
    }


def _cell(member: Member, group: FusedGroup | None, block: int) -> tuple[int | None, str, str]:
    if group is None:
        return None, "", ""
    if not member.config.keeps_block(block):
        return None, "", lines(group.name, "this block is cut")
    choice = member.config.choice(group.sites[0])
    bits = choice.weight.num_bits
    step = next((i for i, width in enumerate(WIDTHS) if width >= bits), len(WIDTHS) - 1)
    return step, str(bits), lines(group.name, choice_words(choice))


def _zeros(member: Member, found: dict[tuple[str, int], FusedGroup], labels: list[str]) -> list[Trace]:
    """A ring on every group with zeros, and a cross where the block is cut."""
    rings: list[tuple[str, str, str]] = []
    cuts: list[tuple[str, str, str]] = []
    for (part, block), group in found.items():
        where = labels[block], part
        choice = member.config.choice(group.sites[0])
        if not member.config.keeps_block(block):
            cuts.append((*where, lines(group.name, "this block is cut")))
        elif choice.sparsity is not None:
            share = f"{digits(100 * choice.sparsity.fraction, 2)} % of the weights are zero"
            rings.append((*where, lines(group.name, choice_words(choice), share)))
    shown = []
    for spots, name, symbol, size in ((rings, "zeros", "circle-open", 28), (cuts, "cut", "x-thin", 12)):
        if spots:
            shown.append(
                {
                    "type": "scatter",
                    "name": name,
                    "mode": "markers",
                    "x": [spot[0] for spot in spots],
                    "y": [spot[1] for spot in spots],
                    "marker": {
                        "symbol": symbol,
                        "size": size,
                        "color": "--warm",
                        "line": {"width": 2, "color": "--warm"},
                    },
                    "hovertext": [spot[2] for spot in spots],
                    "hoverinfo": "text",
                }
            )
    return shown


def _scale() -> list[list[float | str]]:
    count = len(WIDTHS)
    return [[edge / count, f"--bits-{width}"] for i, width in enumerate(WIDTHS) for edge in (i, i + 1)]
