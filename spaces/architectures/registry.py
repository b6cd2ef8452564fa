"""Every family that is known by name; a new one is a file and a line here."""

from __future__ import annotations

from spaces.architectures.layout import Architecture
from spaces.architectures.llama import LLAMA
from spaces.architectures.mistral import MISTRAL
from spaces.architectures.qwen2 import QWEN2
from spaces.architectures.qwen3 import QWEN3

ARCHITECTURES: tuple[Architecture, ...] = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
)


def find_architecture(model_type: str) -> Architecture | None:
    """The family that reads this ``model_type``, if there is one."""
    return next((known for known in ARCHITECTURES if model_type in known.model_types), None)
