"""``python run_search.py`` does what ``paretune`` does, from a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
