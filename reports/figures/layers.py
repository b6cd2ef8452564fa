"""The layer map: bits and zeros of every group of every block, one member at a time."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.reports.comparison import front_members, picked
from paretune.reports.figures.figure import Figure, Layout, Trace, Variant, axis, base_layout, lines, safe
from paretune.reports.numerals import quantity
from paretune.reports.reading import RunFolder
from paretune.reports.wording import block_count, choice_words, configuration_words, layer_groups, part_of
from paretune.spaces.legality import FusedGroup
from paretune.spaces.result import Member

WIDTHS = (2, 3, 4, 5, 6, 8, 16)
"""Steps of the colour scale; a width between two takes the colour of the next."""

_LABELLED_BLOCKS = 40
"""With more blocks than this the cells are too narrow for their numbers."""


def layer_figure(folder: RunFolder) -> Figure | None:
    """The map of each member with a configuration of its own; ``None`` where there is nothing to map."""
    groups = layer_groups(folder.front, folder.run)
    grid = _Grid.of(groups)
    members = _shown(folder)
    if not grid.cells or not members:
        return None
    return Figure(
        name="layers",
        alternative="Bits of each group of linears in each block, one member at a time",
        variants=tuple(_variant(member, groups, grid) for member in members),
        control="list",
        control_label="Member",
        height=110 + 44 * len(grid.parts),
    )


@dataclass(frozen=True)
class _Grid:
    """Where each group lies.

    Attributes:
        parts: rows, in the order of the model.
        blocks: number of columns.
        cells: group by row and block.
    """

    parts: tuple[str, ...]
    blocks: int
    cells: dict[tuple[int, int], FusedGroup]

    @classmethod
    def of(cls, groups: tuple[FusedGroup, ...]) -> _Grid:
        parts = tuple(dict.fromkeys(part_of(group) for group in groups if group.block is not None))
        cells = {(parts.index(part_of(g)), g.block): g for g in groups if g.block is not None}
        return cls(parts, block_count(groups), cells)

    def layout(self) -> Layout:
        """Rows from the top, one tick a block, every fourth where there are many."""
        step = 1 if self.blocks <= 32 else 4
        rows = {"tickvals": list(range(len(self.parts))), "ticktext": [safe(part) for part in self.parts]}
        plain = {"showgrid": False, "ticks": "", "linewidth": 0, "fixedrange": True}
        return base_layout(
            xaxis=axis("block", range=[-0.5, self.blocks - 0.5], tick0=0, dtick=step, **plain),
            yaxis=axis("", range=[len(self.parts) - 0.5, -0.5], **rows, **plain),
            margin={"l": 72, "r": 8, "t": 8, "b": 46},
        )


def _shown(folder: RunFolder) -> list[Member]:
    """The recommended configuration first, then the front from small to large, then probes."""
    recommended = picked(folder.front)
    ordered = [*([recommended] if recommended else []), *front_members(folder.front)]
    ordered += [member for member in folder.front.members if member.kind == "probe"]
    return list({member.name: member for member in ordered}.values())


def _variant(member: Member, groups: tuple[FusedGroup, ...], grid: _Grid) -> Variant:
    size = member.value("weight_bytes")
    label = member.name if size is None else f"{member.name} · {quantity(size, 'B')}"
    words = "  ·  ".join(configuration_words(member.config, groups, grid.blocks))
    return Variant(label, [_heat(member, grid), *_marks(member, grid)], grid.layout(), words)


def _heat(member: Member, grid: _Grid) -> Trace:
    rows = range(len(grid.parts))
    cells = [[_cell(member, grid.cells.get((row, block))) for block in range(grid.blocks)] for row in rows]
    labelled = grid.blocks <= _LABELLED_BLOCKS
    return {
        "type": "heatmap",
        "x": list(range(grid.blocks)),
        "y": list(rows),
        "z": [[step for step, _, _ in line] for line in cells],
        "zmin": -0.5,
        "zmax": len(WIDTHS) - 0.5,
        "colorscale": _scale(),
        "text": [[text if labelled else "" for _, text, _ in line] for line in cells],
        "texttemplate": "%{text}",
        "textfont": {"size": 13},
        "hovertext": [[hover for _, _, hover in line] for line in cells],
        "hoverinfo": "text",
        "hoverongaps": False,
        "xgap": 3 if labelled else 1,
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


def _cell(member: Member, group: FusedGroup | None) -> tuple[int | None, str, str]:
    """Step of the colour scale, number and hover of one group; no step where there is nothing."""
    if group is None or not member.config.keeps_block(group.block):
        return None, "", ""
    choice = member.config.choice(group.layers[0])
    bits = choice.weight.num_bits
    step = next((i for i, width in enumerate(WIDTHS) if width >= bits), len(WIDTHS) - 1)
    return step, str(bits), lines(group.name, choice_words(choice))


def _marks(member: Member, grid: _Grid) -> list[Trace]:
    """A dot in the corner of every group with zeros, and a cross where the block is cut."""
    dots: list[tuple[float, float, str]] = []
    cuts: list[tuple[float, float, str]] = []
    for (row, block), group in grid.cells.items():
        choice = member.config.choice(group.layers[0])
        if not member.config.keeps_block(block):
            cuts.append((block, row, lines(group.name, "this block is cut")))
        elif choice.sparsity is not None:
            dots.append((block + 0.3, row - 0.28, lines(group.name, choice_words(choice))))
    dot = {"symbol": "circle", "size": 9, "color": "--warm", "line": {"width": 1.5, "color": "--card"}}
    cross = {
        "symbol": "x-thin",
        "size": 12,
        "color": "--ink-soft",
        "line": {"width": 2, "color": "--ink-soft"},
    }
    return [*_spots(dots, "zeros", dot), *_spots(cuts, "cut", cross)]


def _spots(spots: list[tuple[float, float, str]], name: str, marker: Layout) -> list[Trace]:
    if not spots:
        return []
    return [
        {
            "type": "scatter",
            "name": name,
            "mode": "markers",
            "x": [spot[0] for spot in spots],
            "y": [spot[1] for spot in spots],
            "marker": marker,
            "hovertext": [spot[2] for spot in spots],
            "hoverinfo": "text",
        }
    ]


def _scale() -> list[list[float | str]]:
    count = len(WIDTHS)
    return [[edge / count, f"--bits-{width}"] for i, width in enumerate(WIDTHS) for edge in (i, i + 1)]
