"""``report.html`` and ``front.csv`` of a run folder, from its files alone."""

from __future__ import annotations

from pathlib import Path

from paretune.reports.page import render_page
from paretune.reports.reading import read_run_folder
from paretune.reports.table import write_front_csv
from paretune.search.run_folder import write_whole


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` and ``front.csv`` into ``run_folder``; returns the path of the page.

    Raises:
        RunError: a file of the run is missing or damaged, or the folder cannot be written.
    """
    folder = read_run_folder(run_folder)
    page = render_page(folder)
    write_front_csv(folder.front, run_folder / "front.csv")
    return write_whole(run_folder / "report.html", page)
