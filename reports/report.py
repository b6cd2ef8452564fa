"""``report.html`` and ``front.csv`` of a run folder, from its files alone. The page opens offline, all in one file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.reports.page import make_page
from paretune.reports.reading import RunFolder, read_run_folder
from paretune.reports.table import write_front_csv
from paretune.spaces import numerals
from paretune.spaces.files import write_whole
from paretune.spaces.metrics import find_metric

if TYPE_CHECKING:
    from markupsafe import Markup

_HERE = Path(__file__).parent
_UNITS = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|[mµ]?s|[mµ]?J|min|h|nats?|bits?)(?!\w))|(?<=±) | (?=±)")


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` and ``front.csv`` into ``run_folder``; returns the path of the page.

    Raises:
        RunError: a file of the run is missing or damaged, or the folder cannot be written.
    """
    folder = read_run_folder(run_folder)
    page = render_page(folder)
    write_front_csv(folder.front, run_folder / "front.csv")
    return write_whole(run_folder / "report.html", page)


def render_page(folder: RunFolder) -> str:
    """The whole page as text: everything that is not from this package is escaped, and no other script may run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    words = {name: getattr(numerals, name) for name in ("change", "digits", "percent", "quantity")}
    jinja.filters.update({**words, "unbroken": unbroken, "plain": _plain})
    jinja.tests["number"] = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    page = make_page(folder)
    figures = json.dumps({figure.name: figure.to_dict() for figure in page.figures}, allow_nan=False)
    scripts = [_asset("plotly-basic.min.js"), _asset("page.js")] if page.figures else [_asset("page.js")]
    return jinja.get_template("page.html").render(
        page=page,
        run=folder.run,
        front=folder.front,
        objectives=", ".join(find_metric(name).label for name in folder.front.objectives),
        style=Markup(_asset("style.css")),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        allowed=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        # Nothing in it can end the element.
        figures=Markup(re.sub("[<>&]", lambda found: f"\\u{ord(found.group()):04x}", figures)),  # noqa: S704
    )


def unbroken(text: str) -> Markup:
    """Escaped text in which a number stays on a line with its unit, and a name with its hyphens."""
    from markupsafe import Markup, escape

    words = _UNITS.sub("\u00a0", text).split(" ")
    whole = Markup('<span class="whole">{}</span>')
    return Markup(" ").join(whole.format(word) if "-" in word[1:-1] else escape(word) for word in words)


def _plain(value: object) -> str:
    """A value of ``run.json`` as text."""
    if isinstance(value, dict):
        known = {key: found for key, found in value.items() if found is not None and key != "schema_version"}
        return ", ".join(f"{key} {_plain(found)}" for key, found in known.items())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else numerals.digits(value)


def _asset(name: str) -> str:
    return (_HERE / "assets" / name).read_text(encoding="utf-8").strip()


def _digest(script: str) -> str:
    """What a content security policy names a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
