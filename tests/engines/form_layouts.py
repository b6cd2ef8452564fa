"""The layouts of other forms read back word by word, in plain integers: a second opinion on their packing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

WORD = 32
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word of AWQ each of eight rows lies."""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def codes_of(words: list[int], bits: int) -> list[int]:
    """The codes in consecutive words, from the lowest bit up."""
    whole = sum((word & 0xFFFFFFFF) << (WORD * place) for place, word in enumerate(words))
    return [whole >> (bits * place) & (1 << bits) - 1 for place in range(len(words) * WORD // bits)]


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes ``(rows, columns)`` of words that hold those of consecutive rows."""
    return torch.tensor([codes_of(column, bits) for column in words.t().tolist()]).t()


def gptq_weight(found: dict[str, torch.Tensor], path: str, values: dict) -> torch.Tensor:
    bits = values["bits"]
    codes = unpacked(found[f"{path}.qweight"], bits)
    zeros = unpacked(found[f"{path}.qzeros"].t(), bits).t() + (values["format"] == "gptq")
    groups = found[f"{path}.g_idx"].long()
    return ((codes - zeros[groups]) * found[f"{path}.scales"].float()[groups]).t()


def awq_weight(found: dict[str, torch.Tensor], path: str, values: dict) -> torch.Tensor:
    del values
    codes, zeros = (
        unpacked(found[f"{path}.{name}"].t(), 4).view(-1, 8, len(found[f"{path}.{name}"]))[:, AWQ_PLACES]
        for name in ("qweight", "qzeros")
    )
    codes, zeros = codes.flatten(0, 1).t(), zeros.flatten(0, 1).t()
    groups = torch.arange(len(codes)) // (len(codes) // len(zeros))
    return ((codes - zeros[groups]) * found[f"{path}.scales"].float()[groups]).t()


def bitsandbytes_weight(found: dict[str, torch.Tensor], path: str, values: dict) -> torch.Tensor:
    del values
    state = json.loads(bytes(found[f"{path}.weight.quant_state.bitsandbytes__nf4"].tolist()))
    assert found[f"{path}.weight.quant_map"].tolist() == torch.tensor(NF4).tolist()
    places = [code for byte in found[f"{path}.weight"].flatten().tolist() for code in (byte >> 4, byte & 15)]
    numbers = torch.tensor(NF4)[places].view(-1, state["blocksize"])
    return (numbers * found[f"{path}.weight.absmax"].unsqueeze(-1)).view(state["shape"])


READERS = {"gptq": gptq_weight, "awq": awq_weight, "bitsandbytes": bitsandbytes_weight}
