"""``python run_search.py`` does what ``paretune`` does, from a checkout that is not installed."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_ROOT = Path(__file__).resolve().parent


def _name_the_checkout() -> None:
    """Let ``import paretune`` find this checkout, whatever its folder is called."""
    spec = spec_from_file_location("paretune", _ROOT / "__init__.py", submodule_search_locations=[str(_ROOT)])
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: {_ROOT} is no checkout of Paretune")
    sys.modules["paretune"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["paretune"])


if __name__ == "__main__":
    _name_the_checkout()
    from paretune.commands.main import main

    raise SystemExit(main())
