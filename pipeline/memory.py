"""How the memory of the device that scores is shared out: what a search holds there, and what may be kept beside it.

The dense model, its predictions of both texts, hidden states and the numbers of a pass are needed; the bank's entries,
packed, and weights expanded from them are kept as far as there is room, the packed ones first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.assembly import DEFAULT_BUDGET_BYTES
from paretune.compressors.bank import offered_entries
from paretune.compressors.divergence import teacher_limit
from paretune.compressors.prefix import prefix_budget
from paretune.compressors.reading import batch_tokens, logit_bytes
from paretune.spaces.errors import RunError
from paretune.spaces.model import ModelSpec
from paretune.spaces.numerals import quantity
from paretune.spaces.space import SearchSpace

_RESERVE = 0.9
"""Of what is free: the allocator's blocks are larger than what is asked for."""
_PASS_TENSORS = 10
"""Of the widest hidden states, alive at once in a block."""


@dataclass(frozen=True)
class Memory:
    """Bytes where candidates are scored.

    Attributes:
        model: the dense one.
        candidate: one candidate's own weights.
        texts: predictions of the dense model.
        states: hidden states that candidates start from.
        work: of a pass.
        packed: entries of the bank.
        copies: expanded weights, beside those of the candidate that is being read.
        free: before the model came, 0 where nobody says.
    """

    model: int
    candidate: int
    texts: int
    states: int
    work: int
    packed: int
    copies: int
    free: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.needed + self.packed + self.copies

    @property
    def needed(self) -> int:
        """Without what is only kept because there is room."""
        return self.model + self.candidate + self.texts + self.states + self.work


def share_memory(
    model: Any, spec: ModelSpec, space: SearchSpace, tokens: Mapping[str, int], budget_bytes: int | None
) -> Memory:
    """What a search will hold on the device of ``model``.

    Args:
        model: dense, loaded.
        spec: of it.
        space: that is searched.
        tokens: of the ``search`` and the ``report`` text.
        budget_bytes: of packed and expanded weights together, as a user says; see the run file.

    Raises:
        RunError: a GPU has not enough.
    """
    device, size = model.device, next(model.parameters()).element_size()
    on_gpu = device.type == "cuda"
    held = sum(int(parameter.nbytes) for parameter in model.parameters())
    entries = [entry for entry in offered_entries(spec, space) if entry.pruned.whole]
    texts = sum(
        min(tokens[name] * spec.vocabulary * 4, teacher_limit(device)) for name in ("search", "report")
    )
    batch = batch_tokens(device)
    states = min(prefix_budget(device), tokens["search"] * spec.hidden_size * size * spec.blocks)
    work = batch * max(spec.hidden_size, spec.ffn_size) * size * _PASS_TENSORS + 3 * logit_bytes(device)
    candidate = sum(linear.weights for linear in spec.block_linears) * size
    expanded = sum(entry.shape[0] * entry.shape[1] * size for entry in entries)
    packed = sum(entry.file_bytes() for entry in entries)
    if not on_gpu:
        copies = min(expanded, DEFAULT_BUDGET_BYTES if budget_bytes is None else budget_bytes)
        return Memory(held, candidate, texts, states, work, 0, copies, _free_memory() + held)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    made = Memory(held, candidate, texts, states, work, 0, 0, free)
    room = int(_RESERVE * free) - made.needed
    if room < 0:
        raise RunError(
            f"a search of {spec.source} on {device}",
            f"needs {quantity(made.needed, 'B')} of memory, and {quantity(free, 'B')} are there",
            "Use fewer or shorter windows (--windows), another compute_device, or compute_dtype: bfloat16",
        )
    room = room if budget_bytes is None else min(room, budget_bytes)
    packed = min(packed, room)
    return Memory(held, candidate, texts, states, work, packed, min(expanded, room - packed), free)


def _free_memory() -> int:
    """Of this machine; 0 where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(free.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return 0
