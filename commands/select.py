"""``paretune select RUN``: the best member of a run under limits."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json

if TYPE_CHECKING:
    from paretune.reports.selection import Broken, Selection
    from paretune.spaces.result import FrontFile, Member


def select(
    run: opt.RunFolder,
    limits: opt.Limit = None,
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            help="What to optimize: kl (nat), bytes (B), tpot (s), task.NAME ...; default: the cheapest where all "
            "limits are on quality, else kl.",
        ),
    ] = "",
    json: opt.Json = False,
) -> int:
    """Print the best member under limits; exit code 3, with the nearest possible, when there is none."""
    from paretune.reports.reading import read_front, require_folder
    from paretune.reports.selection import refusal, select_member
    from paretune.spaces.limits import Limit

    require_folder(run)
    front = read_front(run)
    found = select_member(front, tuple(Limit.parse(text) for text in limits or ()), metric)
    if json:
        print_json(_document(found))
        return 3 if found.member is None else 0
    if found.member is None:
        raise refusal(found)
    _print(front, found, found.member, run)
    return 0


def _print(front: FrontFile, found: Selection, member: Member, run: Path) -> None:
    from paretune.spaces.numerals import measured

    print(f"{member.name}  {member.digest[:12]}")
    for column, value in member.measurements.items():
        told = " (predicted)" if value.source == "predicted" else ""
        if column != "kl_search" and not column.endswith("_stderr"):
            print(f"  {column:<28} {measured(value)}{told}")
    if found.predicted:
        print(f"Judged on predictions, because nothing was measured: {', '.join(found.predicted)}.")
    same = [
        other.name
        for other in front.members
        if member.equivalence_class is not None
        and other.equivalence_class == member.equivalence_class
        and other.name != member.name
    ]
    if same:
        print(f"Cannot be told apart from {', '.join(same)}.")
    print(f"Export it: paretune export {shlex.quote(str(run))} --name {shlex.quote(member.name)}")


def _document(found: Selection) -> dict[str, Any]:
    return {
        "metric": found.metric,
        "selected": _plain(found.member),
        "nearest": _plain(found.nearest),
        "broken": [_broken(one) for one in found.broken],
        "hopeless": [_broken(one) for one in found.hopeless],
        "predicted": list(found.predicted),
    }


def _plain(member: Member | None) -> dict[str, Any] | None:
    return (
        None
        if member is None
        else member.model_dump(
            mode="json", exclude={"measurements": {"__all__": {"per_window", "tails", "sample"}}}
        )
    )


def _broken(one: Broken) -> dict[str, Any]:
    return {"limit": one.limit.text, "metric": one.limit.metric, "bound": one.limit.bound, "value": one.value}
