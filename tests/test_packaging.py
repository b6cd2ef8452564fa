"""What is installed is ``paretune`` alone, and a package called ``spaces`` beside it stays what it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder like site-packages, with the wheel in it and somebody else's ``spaces``."""
    place = tmp_path_factory.mktemp("wheel")
    # Of a copy: what a build leaves in a checkout would be in the next wheel.
    left = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, place / "source", ignore=left)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(source)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = place.glob("*.whl")
    site = place / "site"
    (site / "spaces").mkdir(parents=True)
    (site / "spaces" / "__init__.py").write_text("GPU = 'theirs'\n")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    return wheel, site


def test_nothing_but_paretune_is_installed(installed):
    wheel, site = installed
    checked = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "check_wheel.py"), str(wheel)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    names = {path.name for path in site.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"paretune", "spaces"}


def test_a_package_called_spaces_works_beside_it(installed):
    _, site = installed
    program = (
        "import paretune, spaces, paretune.spaces.limits as limits\n"
        "assert spaces.GPU == 'theirs', spaces\n"
        "assert limits.Limit.parse('memory<=1GiB').bound == 2**30\n"
        "print(paretune.__file__)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=site, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str(site / "paretune" / "__init__.py")
