"""What a space has to know about methods of quantization: what must be chosen together, and in which format.

The methods themselves are registered in :mod:`compressors.quantizers`; a test holds this table against them.
"""

from __future__ import annotations

from typing import Literal

from spaces.errors import UnknownNameError
from spaces.schema import Frozen

Closure = Literal["site", "block", "model"]
"""What a method touches when it is applied to one site."""


class Method(Frozen):
    """One method of quantization.

    Attributes:
        closure: sites that can only be chosen together: each alone, those of a block, or all.
        zero_point: whether the integers it makes need one.
    """

    closure: Closure = "site"
    zero_point: bool = False


_OF_A_SITE = Method()

METHODS: dict[str, Method] = {
    "rtn": _OF_A_SITE,
    "hqq": Method(zero_point=True),
    "gptq": _OF_A_SITE,
    "minmax": _OF_A_SITE,
    "percentile": _OF_A_SITE,
    "entropy": _OF_A_SITE,
    "kmeans": _OF_A_SITE,
    "learned": _OF_A_SITE,
    "awq": Method(closure="block"),
}
BLOCK_METHODS = frozenset(name for name, method in METHODS.items() if method.closure == "block")
"""Methods whose entries are swapped as whole blocks."""


def find_method(name: str) -> Method:
    """What is known about the method called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]
