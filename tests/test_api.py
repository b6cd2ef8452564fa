"""``import paretune``: a search from Python, light to import, typed, in whatever order its parts are imported."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import paretune
from paretune.spaces.errors import LimitError, LimitTextError, ModelError, UnknownNameError

ROOT = Path(__file__).resolve().parents[1]


def python(program, *options):
    command = [sys.executable, *options, "-c", textwrap.dedent(program)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "lines",
    [
        "import paretune",
        "import paretune.search.study",
        "from paretune.search import study",
        "from paretune import search; import paretune.search.study",
        "import paretune.pipeline.job",
        "import paretune.search as search; search.study if hasattr(search, 'study') else None",
    ],
)
def test_the_search_is_a_function_and_a_package_in_every_order(lines):
    found = python(f"""
        {lines}
        import paretune
        from paretune.search.settings import SearchSettings
        from paretune import search
        assert callable(search) and search is paretune.search
        assert "limits" in __import__("inspect").signature(paretune.search).parameters
        assert SearchSettings.__module__ == "paretune.search.settings"
        try:
            paretune.search(limits=["memory<6GiB"])
        except paretune.ParetuneError as error:
            print(error)
    """)
    assert found.returncode == 0, found.stderr
    assert "must read METRIC<=NUMBER" in found.stdout


def test_importing_it_loads_next_to_nothing():
    found = python("""
        import sys, paretune
        heavy = {"torch", "transformers", "pandas", "pydantic", "rich", "numpy", "typer"} & set(sys.modules)
        sys.exit(str(heavy) if heavy else 0)
    """)
    assert found.returncode == 0, found.stderr
    used = python("""
        import sys, paretune
        paretune.Run, paretune.search.__signature__, paretune.advise
        heavy = {"torch", "transformers", "pandas", "rich", "typer"} & set(sys.modules)
        sys.exit(str(heavy) if heavy else 0)
    """)
    assert used.returncode == 0, used.stderr


def test_every_name_is_there_and_explained():
    for name in paretune.__all__:
        assert inspect.getdoc(getattr(paretune, name)), name
    assert set(paretune.__all__) <= set(dir(paretune))
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        paretune.serach  # noqa: B018


def test_the_words_are_those_of_the_command_line():
    from paretune.commands.search import search as command

    told = {
        name for name in inspect.signature(command).parameters if name not in ("json", "quiet", "dry_run")
    }
    assert told == set(inspect.signature(paretune.search).parameters) - {"progress"}
    assert inspect.signature(paretune.plan).parameters == inspect.signature(paretune.search).parameters
    for function in (paretune.plan, paretune.inspect):
        for word in inspect.signature(function).parameters:
            assert re.search(rf"\b{word}\b.*:", inspect.getdoc(function) or ""), word


def test_a_word_that_is_none_is_refused_before_anything_is_read():
    for call in (paretune.search, paretune.plan, paretune.inspect):
        with pytest.raises(TypeError, match=r"'limit' is none of the words here: .*limits"):
            call("embedded", limit=["kl<=1"])
    with pytest.raises(TypeError, match="'minutes' is none"):
        paretune.inspect("embedded", minutes=3)


def test_a_plan_is_what_a_dry_run_prints(tmp_path):
    found = paretune.plan(
        "embedded", out=tmp_path / "run", minutes=2, tasks=None, progress=False, bits=[4, 8]
    )
    assert found.seconds["search"] == 120
    assert any("--minutes" in line for line in found.lines())
    assert not (tmp_path / "run").exists()


def test_refusals_are_errors_with_a_remedy(tmp_path):
    for call, kind in (
        (lambda: paretune.search("embedded", engine="vlllm", out=tmp_path / "run"), UnknownNameError),
        (lambda: paretune.search("embedded", limits=["memory<6GiB"], out=tmp_path / "run"), LimitTextError),
        (lambda: paretune.inspect("embedded", limits=["bytes<=1kB"]), LimitError),
        (lambda: paretune.advise("nowhere"), ModelError),
        (lambda: paretune.load_run(tmp_path), paretune.ParetuneError),
        (lambda: paretune.check("embedded", base="embedded", limits=["memory<=1GB"]), LimitTextError),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.remedy
    assert not (tmp_path / "run").exists()


CALLER = """
from pathlib import Path

import pandas as pd

import paretune
from paretune import search as searching
from paretune.search import study


def watch(step: paretune.Step) -> None:
    print(step.stage, step.done, step.total)


run: paretune.Run = paretune.search(
    "embedded", engine="torch-cpu", text=Path("books.txt"), limits=["kl<=0.1"], bits=[4, 8], progress=watch
)
front: pd.DataFrame = run.front
name: str = run.recommended.name
folder: str = run.export(name)["folder"]
page: Path = run.report()
passed: bool = paretune.check(folder, base="embedded").passed
again: paretune.Run = searching("embedded")
kind: type[study.Study] = study.Study
"""
WRONG = "import paretune\nparetune.search('embedded', limit=['kl<=0.1'])\n"


SKIPPED = ("torch", "transformers", "numpy", "pandas", "scipy", "optuna", "rich", "lm_eval", "yaml")


def test_a_typed_caller_passes_the_strictest_check(tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "paretune").symlink_to(ROOT)
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "wrong.py").write_text(WRONG)
    # What others ship is not read: it takes minutes, and is not what is asked here.
    skipped = "".join(f"[mypy-{name},{name}.*]\nfollow_imports = skip\n" for name in SKIPPED)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = true\nignore_missing_imports = true\n{skipped}")
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "caller.py", "wrong.py"], cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(tmp_path / "links")}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    said = [line for line in found.stdout.splitlines() if ": error: " in line]
    assert len(said) == 1, found.stdout
    assert said[0].startswith("wrong.py:2")
    assert 'Unexpected keyword argument "limit"' in said[0]
