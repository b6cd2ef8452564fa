"""OpenVINO imported without its telemetry: importing it alone counts, names the machine and sends that.

No variable switches it off but those by which it recognises continuous integration. The package that sends is optional
to OpenVINO, which takes a stub where it cannot be imported. Source: ``openvino/tools/ovc/telemetry_utils.py``, 2026.4.
"""

from __future__ import annotations

import sys
from typing import Any, cast

_SENDER = "openvino_telemetry"


def silent_openvino() -> Any:
    """The package ``openvino``, which sends nothing unless something else imported it before us.

    Afterwards other packages find what sends as they would have: it is theirs to ask.
    """
    # A name that maps to None is one that cannot be imported; mypy's stubs know modules only.
    loaded = cast(dict[str, Any], sys.modules)
    before = {_SENDER: loaded[_SENDER]} if _SENDER in loaded else {}
    loaded[_SENDER] = None
    try:
        import openvino
    finally:
        del loaded[_SENDER]
        loaded.update(before)
    return openvino
