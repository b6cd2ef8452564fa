"""Forms of checkpoint that ``transformers`` loads: one line a form; its module is imported when it is asked for.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from paretune.engines.forms.form import Form
from paretune.spaces.registry import Registry

DEFAULT_FORM = "compressed-tensors"

FORMS: Registry[Form] = Registry(
    "form",
    __name__,
    {
        DEFAULT_FORM: "form:CompressedTensors",
        "bitsandbytes": "bitsandbytes:BitsAndBytes",
        "gptq": "gptq:Gptq",
        "awq": "awq:Awq",
    },
)
form_names, find_form = FORMS.names, FORMS.find

__all__ = ["DEFAULT_FORM", "Form", "find_form", "form_names"]
