"""What tests of vLLM share: devices by generation, rulings on them, and what an export holds."""

from __future__ import annotations

import json

from safetensors.torch import load_file

from paretune.engines.engine import ExportCard
from paretune.engines.vllm_engine import Vllm
from paretune.spaces.configuration import WHOLE
from paretune.spaces.size import weight_bytes
from paretune.spaces.target import Workload

ENGINE = Vllm()
DEVICES = {"cpu": "x86-avx2", "ampere": "a100-80", "ada": "l4", "hopper": "h200", "blackwell": "b200"}
GPUS = ["ampere", "ada", "hopper", "blackwell"]


def ruled(spec, wanted, device, group="blocks.0.down", pruned=WHOLE, parallel=1):
    legality = ENGINE.legality_at(DEVICES[device], Workload(tensor_parallel=parallel))
    found = next(one for one in legality.groups(spec) if one.name == group)
    return legality.choice(spec, found, wanted, pruned)


def legal_on(spec, wanted, group="blocks.0.down"):
    return [device for device in DEVICES if ruled(spec, wanted, device, group)]


def written(one, config, folder):
    ENGINE.export(one.assembler, config, folder, ExportCard(one.folder, "candidate"))
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    assert sum(tensor.nbytes for tensor in tensors.values()) == weight_bytes(one.spec, config)
    return tensors, json.loads((folder / "config.json").read_text()).get("quantization_config")
