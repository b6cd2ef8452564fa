"""Forms of checkpoint that ``transformers`` loads: one line a form; its module is imported when it is asked for.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module

from paretune.engines.forms.form import Form
from paretune.spaces.errors import UnknownNameError

DEFAULT_FORM = "compressed-tensors"

_FORMS = {
    DEFAULT_FORM: "paretune.engines.forms.form:CompressedTensors",
    "bitsandbytes": "paretune.engines.forms.bitsandbytes:BitsAndBytes",
    "gptq": "paretune.engines.forms.gptq:Gptq",
    "awq": "paretune.engines.forms.awq:Awq",
}


def form_names() -> tuple[str, ...]:
    """Every registered form, the usual one first."""
    return tuple(_FORMS)


def find_form(name: str) -> Form:
    """The form called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _FORMS:
        raise UnknownNameError("form", name, _FORMS)
    module, _, attribute = _FORMS[name].partition(":")
    found = getattr(import_module(module), attribute)()
    if not isinstance(found, Form):
        raise TypeError(f"{_FORMS[name]} is no Form")
    return found


__all__ = ["DEFAULT_FORM", "Form", "find_form", "form_names"]
