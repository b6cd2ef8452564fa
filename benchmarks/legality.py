"""Whether vLLM loads what is offered for it, and nothing of what is refused.

``python -m paretune.benchmarks.legality draw --device h200 cases.json`` draws linears and formats at random from what
is offered and from what is refused; ``vllm_layers.py cases.json answers.jsonl`` tries them in vLLM, where that is;
``... table --device h200 cases.json answers.jsonl`` puts both into ``results/legality.csv``. A row is one fused linear
as the first of the devices that share it has it, with its own rows and columns.
"""

from __future__ import annotations

import datetime
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from paretune.benchmarks.tables import RESULTS, machine, read_table, write_table
from paretune.engines.checkpoint.schemes import container, input_arguments, weight_arguments
from paretune.engines.vllm.devices import executed, generation
from paretune.engines.vllm.legality import VllmLegality
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import WHOLE
from paretune.spaces.formats import integer_format
from paretune.spaces.legality import FusedGroup, Ruling
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import find_choice
from paretune.spaces.size import lies_unpacked

COLUMNS = (
    "engine",
    "engine_version",
    "device",
    "format",
    "group_size",
    "rows",
    "columns",
    "offered",
    "loaded",
)
MODELS = (
    # hidden, heads, key-value heads, head size: of real models where there are any
    (576, 9, 3, 64),
    (896, 14, 2, 64),
    (960, 15, 5, 64),
    (1152, 4, 1, 256),
    (1536, 12, 2, 128),
    (2048, 32, 8, 64),
    (2304, 8, 4, 256),
    (2560, 32, 32, 80),
    (2720, 34, 2, 80),
    (3584, 28, 4, 128),
    (4096, 32, 8, 128),
    (5120, 40, 8, 128),
)
FFN = (1536, 2560, 3072, 4864, 6912, 7344, 8192, 8960, 10000, 11008, 13824, 1000, 1416, 2080, 3424, 5472)
"""Of real models, and such as are multiples of 8, 16 and 32 alone."""

WIDTHS, GROUPS = (2, 3, 4, 5, 6, 8), (16, 32, 64, 96, 128, 256, None)
NAMED = (
    *("w8a8-dynamic", "w8a8-static", "fp8-channel", "fp8-tensor", "fp8-block", "fp8-dynamic", "fp8-static"),
    *("fp8-block-dynamic", "nvfp4", "nvfp4-a4", "mxfp4", "mxfp4-a4", "mxfp8", "mxfp8-a8"),
)
_KINDS = ("qkv", "o", "gate_up", "down")
app = typer.Typer(add_completion=False)
DEVICE = typer.Option("--device", help="name of the device")


@app.command()
def draw(
    cases: Path,
    device: Annotated[str, DEVICE] = "h200",
    seed: Annotated[int, typer.Option()] = 16,
    each: Annotated[int, typer.Option(help="of what is offered of a format, and of what is refused")] = 6,
) -> None:
    """Write linears to try, as many of each format from what is offered as from what is refused, if there are any."""
    rng = random.Random(seed)
    found: list[dict[str, Any]] = []
    for name, choice in formats():
        kept: dict[bool, list[dict[str, Any]]] = defaultdict(list)
        for _ in range(400):
            case = _case(rng, name, choice, device)
            if len(kept[case["offered"]]) < each and case not in kept[case["offered"]]:
                kept[case["offered"]].append(case)
        found += [*kept[True], *kept[False]]
    cases.write_text(json.dumps(found), encoding="utf-8")
    offered = sum(case["offered"] for case in found)
    print(f"{len(found)} cases, {offered} of them offered")


def formats() -> Iterator[tuple[str, list[LayerChoice]]]:
    """Names, and the formats that one is drawn from: integers with and without zero points in groups, and the rest."""
    for width in WIDTHS:
        for symmetric in (True, False):
            made = [integer_format(width, size, symmetric=symmetric) for size in GROUPS]
            yield f"int{width}{'' if symmetric else '-zero-point'}", [_choice(weight) for weight in made]
    for name in NAMED:
        yield name, [find_choice(name)]


def _choice(weight: Any) -> LayerChoice:
    return LayerChoice(weight=weight, method="rtn")


def _case(rng: random.Random, name: str, choices: list[LayerChoice], device: str) -> dict[str, Any]:
    """A linear of a model, what one of ``parts`` devices has of it, and what we and the checkpoint say of it."""
    hidden, heads, kv_heads, head_dim = rng.choice(MODELS)
    ffn, parts, kind = rng.choice(FFN), rng.choice((1, 1, 1, 2, 4)), rng.choice(_KINDS)
    if kind == "qkv" and kv_heads % parts:
        parts = 1  # heads are then repeated, which is another matter
    choice = rng.choice(choices)
    spec = _spec(hidden, heads, kv_heads, head_dim, ffn)
    group, ruling = _ruled(spec, kind, choice, device, parts)
    linears = [spec.linear(layer) for layer in group.layers]
    rows, columns = sum(one.out_features for one in linears), linears[0].in_features
    ran = executed(choice, device)
    inputs = None if choice.activation is None else input_arguments(choice.activation)
    return {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "ffn": ffn,
        "kind": kind,
        "parts": parts,
        "platform": "cpu" if generation(device) == "cpu" else "gpu",
        "scheme": {
            "weights": weight_arguments(choice.weight),
            "input_activations": inputs,
            "format": container(choice.weight, unpacked=lies_unpacked(linears[0], choice)),
        },
        "inputs": None if ran.activation is None else input_arguments(ran.activation),
        "name": name,
        "group_size": choice.weight.group_size,
        "offered": bool(ruling),
        "reason": ruling.reason,
        "rows": rows if kind in ("o", "down") else rows // parts,
        "columns": columns // parts if kind in ("o", "down") else columns,
    }


def _ruled(
    spec: ModelSpec, kind: str, choice: LayerChoice, device: str, parts: int
) -> tuple[FusedGroup, Ruling]:
    legality = VllmLegality("vllm", device, parts)
    group = next(one for one in legality.groups(spec) if one.name == f"blocks.0.{kind}")
    return group, legality.choice(spec, group, choice, WHOLE)


def _spec(hidden: int, heads: int, kv_heads: int, head_dim: int, ffn: int) -> ModelSpec:
    import tempfile

    values = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": 1,
        "vocab_size": 256,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        return read_model(Path(folder))


@app.command()
def table(
    cases: Path,
    answers: Path,
    device: Annotated[str, DEVICE] = "h200",
    version: Annotated[str, typer.Option(help="of vLLM, where it was tried")] = "0.26.0",
    where: Annotated[str, typer.Option(help="machine and versions that it was tried with")] = "",
) -> None:
    """Put the answers into ``results/legality.csv``, beside rows of other devices, and say where both differ.

    What is offered is asked again, of the rules as they are now.
    """
    drawn, known = json.loads(cases.read_text(encoding="utf-8")), dict(formats())
    lines = answers.read_text(encoding="utf-8").splitlines()
    rows = {}
    for line in lines:
        answer = json.loads(line)
        case = drawn[answer["case"]]
        loaded = bool(answer["loaded"])
        choice = next(one for one in known[case["name"]] if one.weight.group_size == case["group_size"])
        spec = _spec(*(case[name] for name in ("hidden", "heads", "kv_heads", "head_dim", "ffn")))
        ruling = _ruled(spec, case["kind"], choice, device, case["parts"])[1]
        case |= {"offered": bool(ruling), "reason": ruling.reason}
        rows[answer["case"]] = {
            "engine": "vllm",
            "engine_version": version,
            "device": device,
            "format": case["name"],
            **{name: case[name] for name in ("group_size", "rows", "columns")},
            "offered": str(case["offered"]).lower(),
            "loaded": str(loaded).lower(),
        }
        if loaded != case["offered"]:
            said = case["reason"] or answer["why"]
            print(
                f"{case['name']} g{case['group_size']} {case['kind']} of {case['rows']} x {case['columns']}",
                end="",
            )
            print(f" (1/{case['parts']}): offered {case['offered']}, loaded {loaded}: {said}")
    print(f"{len(rows)} rows of {len(drawn)} cases")
    fresh = sorted(rows.values(), key=lambda row: [str(row[name]) for name in COLUMNS])
    note = f"rows of device {device}, {datetime.date.today()}: {where or machine()}"
    others, notes = _others(device)
    write_table("legality", COLUMNS, [*others, *fresh], [*notes, note])


def _others(device: str) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of other devices, and the lines that say where they were tried."""
    path = RESULTS / "legality.csv"
    if not path.exists():
        return [], []
    lines = path.read_text(encoding="utf-8").splitlines()
    notes = [line[2:] for line in lines if line.startswith("# rows of device ")]
    rows = [row for row in read_table("legality") if row["device"] != device]
    return rows, [note for note in notes if not note.startswith(f"rows of device {device}, ")]


if __name__ == "__main__":
    app()
