"""Which models people run are read: ``python -m benchmarks.families CONFIGS [--advise]``. Writes ``families.csv``.

CONFIGS is the folder ``model_configs`` of the package ``aiconfigurator-core`` 0.12 (Apache-2.0): 89
``NAME_config.json`` of current models, with ``NAME_hf_quant_config.json`` beside those of ModelOpt. Parameters are
held against the model that ``transformers`` builds on the meta device. ``--advise`` times ``paretune advise`` on each,
import included.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.tables import write_table
from paretune.spaces.architectures import read_model
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import ModelError
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kv_cache_bytes, weight_bytes
from paretune.spaces.target import Workload

COLUMNS = (
    "config", "model_type", "read", "parameters", "weight_bytes", "kv_bytes_per_token", "state_bytes", "reason",
)  # fmt: skip
_NOTES = (
    "configurations: aiconfigurator-core 0.12.0, model_configs (Apache-2.0)",
    "weight_bytes: of the checkpoint as it ships; where that is quantized, as its configuration says of its layers",
    "kv_bytes_per_token: by which one sequence grows within every window; state_bytes: what it keeps besides",
)
_END = "_config.json"


def main(
    configs: Path, advise: Annotated[bool, typer.Option(help="time paretune advise on each")] = False
) -> None:
    """A row for each configuration."""
    rows, seconds = [], {}
    for file in sorted(configs.glob(f"*{_END}")):
        if file.name.endswith("_hf_quant_config.json"):
            continue
        name = file.name.removesuffix(_END)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / name
            folder.mkdir()
            shutil.copy(file, folder / "config.json")
            beside = configs / f"{name}_hf_quant_config.json"
            if beside.is_file():
                shutil.copy(beside, folder / "hf_quant_config.json")
            rows.append({"config": name, **row_of(folder)})
            if advise and rows[-1]["read"] == "true":
                seconds[name] = advised(folder)
    slowest = max(seconds, key=lambda name: seconds[name], default="")
    told = (
        [f"paretune advise, import included: {seconds[slowest]:.1f} s at most ({slowest})"] if seconds else []
    )
    print(write_table("families", COLUMNS, rows, [*_NOTES, *told]), *told)


def row_of(folder: Path) -> dict[str, Any]:
    """What is read of one configuration, or why nothing is."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {"model_type": values.get("model_type"), "read": "false"}
    try:
        spec = read_model(folder, source=folder.name)
    except ModelError as error:
        value = str(error.value).replace(str(folder), folder.name)
        return row | {"reason": f"{value} {error.rule}; {error.remedy}"}
    assert spec.parameters == counted(folder), folder
    one, two = (
        kv_cache_bytes(spec, DENSE_CONFIG, Workload(prompt_tokens=tokens, output_tokens=1))
        for tokens in (1, 2)
    )
    return row | {
        "read": "true",
        "parameters": spec.parameters,
        "weight_bytes": weight_bytes(spec, DENSE_CONFIG),
        "kv_bytes_per_token": two - one,
        "state_bytes": one - 2 * (two - one),
        "reason": _said(spec),
    }


def _said(spec: ModelSpec) -> str:
    return "" if spec.shipped is None else f"ships quantized: {spec.shipped.method}"


def counted(folder: Path) -> int:
    """Parameters of the model that ``transformers`` builds itself."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    named = getattr(transformers, (config.architectures or [""])[0], None)
    kinds = (
        [named]
        if named is not None
        else [transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText]
    )
    for kind in kinds:
        try:
            with torch.device("meta"):
                if named is None:
                    model = kind.from_config(config, trust_remote_code=False)
                else:
                    model = kind._from_config(config)
                return sum(parameter.numel() for parameter in model.parameters())
        except ValueError:
            continue
    raise AssertionError(f"{folder.name} has no causal language model")


def advised(folder: Path) -> float:
    """Seconds of ``paretune advise`` in a process of its own."""
    command = [sys.executable, "run_search.py", "advise", str(folder), "--device", "h200"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
