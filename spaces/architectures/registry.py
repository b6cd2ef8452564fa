"""Every family that is known by name; a new one is a file and a line here."""

from __future__ import annotations

from paretune.spaces.architectures.gemma2 import GEMMA2
from paretune.spaces.architectures.gemma3 import GEMMA3, GEMMA3_TEXT
from paretune.spaces.architectures.gpt2 import GPT2
from paretune.spaces.architectures.gpt_neox import GPT_NEOX
from paretune.spaces.architectures.layout import Architecture
from paretune.spaces.architectures.llama import LLAMA
from paretune.spaces.architectures.mistral import MISTRAL
from paretune.spaces.architectures.mixtral import MIXTRAL
from paretune.spaces.architectures.opt import OPT
from paretune.spaces.architectures.phi3 import PHI3
from paretune.spaces.architectures.qwen2 import QWEN2
from paretune.spaces.architectures.qwen3 import QWEN3
from paretune.spaces.architectures.qwen3_moe import QWEN3_MOE

ARCHITECTURES: tuple[Architecture, ...] = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA2,
    GEMMA3_TEXT,
    GEMMA3,
    PHI3,
    GPT_NEOX,
    OPT,
    GPT2,
    MIXTRAL,
    QWEN3_MOE,
)


def find_architecture(model_type: str) -> Architecture | None:
    """The family that reads this ``model_type``, if there is one."""
    return next((known for known in ARCHITECTURES if model_type in known.model_types), None)
