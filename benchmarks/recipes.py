"""Whether tools understand our recipes: ``python -m benchmarks.recipes --tool NAME --python INTERPRETER``.

``INTERPRETER`` belongs to an environment that has the tool. The program of :mod:`benchmarks.recipe_programs` that goes
with it applies each recipe to the embedded model and tells what it made of every linear, embedding and head. Formats
agree where that is what the configuration says and the weights bear it out: no more different values in a group than
codes, the announced share of zeros, dense modules bit for bit as they were. Writes ``recipes.csv``; rows of other tools
stay.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.compressors import sources
from benchmarks.random_configs import Named, every_choice
from benchmarks.recipe_programs.job import Format, Job
from benchmarks.tables import beside, write_table
from paretune.compressors.loading import load_dense, load_tokenizer
from paretune.compressors.windows import read_windows
from paretune.engines.recipes import find_recipe, recipe_names
from paretune.engines.recipes.recipe import Recipe, modules
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.formats import integer_format
from paretune.spaces.groups import fused_groups
from paretune.spaces.legality import FusedGroup
from paretune.spaces.model import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("tool", "version", "config", "ran", "formats_agree")
PACKAGES = {"llm-compressor": "llmcompressor", "modelopt": "nvidia-modelopt"}
"""Distributions that are not called as the tool is."""
WINDOWS, TOKENS = 8, 128
_DENSE_SHARE, _PRUNED_SHARE = 0.2, 0.2
_DRAWS = 200


@dataclass(frozen=True)
class Bench:
    """The embedded model, its weights by module path, and what tools calibrate on."""

    folder: Path
    spec: ModelSpec
    dense: Mapping[str, torch.Tensor]
    calibration: torch.Tensor


@dataclass(frozen=True)
class Told:
    """What a program answered: formats and weights by module path."""

    version: str
    formats: Mapping[str, Format]
    weights: Mapping[str, torch.Tensor]


def main() -> None:
    """Try one tool; rows of others stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", required=True, choices=recipe_names())
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has the tool")
    parser.add_argument(
        "--only", nargs="*", help="names of configurations; all if left out, nothing is written"
    )
    arguments = parser.parse_args()
    recipe, bench = find_recipe(arguments.tool), open_bench()
    named = [n for n in configurations(recipe, bench.spec) if not arguments.only or n.name in arguments.only]
    rows = list(measured(recipe, bench, named, arguments.python))
    if not arguments.only:
        both = beside("recipes", rows, ("tool",))
        write_table("recipes", COLUMNS, sorted(both, key=lambda row: str(row["tool"])))


def open_bench() -> Bench:
    """The embedded model and windows of its calibration text."""
    source = sources(None)[0]
    spec = read_model(source.folder)
    model = load_dense(source.folder, spec)
    path, documents = source.calibration
    windows = read_windows(
        load_tokenizer(source.folder),
        path,
        "calibration",
        window_tokens=TOKENS,
        count=WINDOWS,
        documents=documents,
    )
    dense = {linear.name: model.get_submodule(linear.name).weight.detach() for linear in spec.linears}
    return Bench(source.folder, spec, dense, windows.ids)


def configurations(recipe: Recipe, spec: ModelSpec, count: int = 3, seed: int = 0) -> list[Named]:
    """Uniform at 4 and 8 bits inside the blocks, and ``count`` mixtures of what the tool has, fused layers alike."""
    found = [Named(f"uniform-{bits}", _uniform(recipe, spec, bits)) for bits in (4, 8)]
    numbers, groups = random.Random(seed), fused_groups(spec)
    offered = {group.name: _choices(recipe, spec, group) for group in groups}
    for _ in range(_DRAWS):
        if len(found) == 2 + count:
            return found
        layers = {}
        for group in groups:
            if numbers.random() >= _DENSE_SHARE and offered[group.name]:
                layers.update(dict.fromkeys(group.layers, numbers.choice(offered[group.name])))
        config = CompressionConfig(layers=layers)
        if config.layers and recipe.ruling(spec, config):
            found.append(Named(f"random-{len(found) - 2:02d}", config))
    raise AssertionError(f"{recipe.name} accepted {len(found) - 2} of {_DRAWS} mixtures")


def _uniform(recipe: Recipe, spec: ModelSpec, bits: int) -> CompressionConfig:
    """Symmetric integers inside the blocks: in groups of 128, by row where the tool has no such groups."""
    for group_size in (128, None):
        choice = LayerChoice(weight=integer_format(bits, group_size), method="rtn")
        config = CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})
        if recipe.ruling(spec, config):
            return config
    raise AssertionError(f"{recipe.name} has no symmetric integers of {bits} bits")


def _choices(recipe: Recipe, spec: ModelSpec, group: FusedGroup) -> list[LayerChoice]:
    """What the tool has for all layers of a group; pruned too where it prunes, more seldom."""
    pruned = [
        choice.model_copy(update={"sparsity": Sparsity(fraction=0.5, pattern=pattern, criterion=criterion)})
        for choice in every_choice()
        if choice.weight.number_type == "int"
        for pattern in ("unstructured", "2:4")
        for criterion in ("wanda", "sparsegpt")
    ]
    plain, zeros = ([c for c in many if _has(recipe, spec, group, c)] for many in (every_choice(), pruned))
    few = random.Random(group.name).sample(zeros, min(len(zeros), round(_PRUNED_SHARE * len(plain))))
    return [*plain, *few]


def _has(recipe: Recipe, spec: ModelSpec, group: FusedGroup, choice: LayerChoice) -> bool:
    columns = spec.linear(group.layers[0]).in_features
    if choice.weight.group_size is not None and columns % choice.weight.group_size:
        return False
    return bool(recipe.ruling(spec, CompressionConfig(layers=dict.fromkeys(group.layers, choice))))


def measured(recipe: Recipe, bench: Bench, named: list[Named], python: Path) -> Iterator[dict[str, object]]:
    """A row a configuration; what differs is printed."""
    for one in named:
        told = run_recipe(recipe, bench, one.config, python)
        row: dict[str, object] = {"tool": recipe.name, "version": recipe.version, "config": one.name}
        if isinstance(told, str):
            print(f"{recipe.name} {one.name} did not run: {told}", flush=True)
            yield {**row, "ran": "false", "formats_agree": "false"}
            continue
        found = list(differences(bench, one.config, told))
        for difference in found:
            print(f"{recipe.name} {one.name}: {difference}", flush=True)
        agree = "false" if found else "true"
        print(f"{recipe.name} {told.version} {one.name}: ran, formats agree: {agree}", flush=True)
        yield {**row, "version": told.version, "ran": "true", "formats_agree": agree}


def run_recipe(recipe: Recipe, bench: Bench, config: CompressionConfig, python: Path) -> Told | str:
    """What the tool made of the model, or why it failed."""
    package = PACKAGES.get(recipe.name, recipe.name)
    names = tuple(linear.name for linear in bench.spec.linears)
    job = Job(str(bench.folder), package, recipe.file_name, names)
    program = f"benchmarks.recipe_programs.{recipe.name.replace('-', '_')}"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job.write(folder, recipe.text(bench.spec, config), bench.calibration)
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
        here = {"PYTHONPATH": str(ROOT)}  # some tools leave logs in the folder that they are started in
        command = [str(python), "-m", program, str(folder)]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **quiet, **here},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            return f"status {done.returncode}: {done.stderr[-3000:]}"
        told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        formats = {name: Format(**values) for name, values in told["formats"].items()}
        return Told(told["version"], formats, load_file(folder / "weights.safetensors"))


def expected(spec: ModelSpec, config: CompressionConfig) -> dict[str, Format]:
    """The configuration in the words of the programs, by module path."""
    found = {}
    for layer, choice in config.layers.items():
        if choice.weight.dense:
            continue
        weight, inputs = choice.weight, choice.activation
        one = Format(
            bits=weight.num_bits,
            number_type=weight.number_type,
            group_size=weight.group_size,
            symmetric=weight.symmetric,
            block_rows=weight.block_rows,
            input_bits=None if inputs is None else inputs.num_bits,
        )
        found.update(dict.fromkeys(modules(spec, layer), one))
    return found


def differences(bench: Bench, config: CompressionConfig, told: Told) -> Iterator[str]:
    """What a tool made otherwise, in words."""
    wanted = expected(bench.spec, config)
    for name, dense in bench.dense.items():
        asked, made = wanted.get(name), told.formats.get(name)
        if asked != made:
            yield f"{name} should have {asked} and has {made}"
        weight, sparsity = told.weights[name], config.choice(name).sparsity
        if asked is None and sparsity is None and not torch.equal(weight, dense):
            yield f"{name} should be as it was and differs by {float((weight - dense).abs().max()):.3g}"
        if asked is not None and (most := most_values(weight, asked.group_size)) > 2**asked.bits:
            yield f"{name} has {most} different values in a group of {asked.bits}-bit codes"
        if asked is not None and torch.equal(weight, dense):
            yield f"{name} should be quantized and is as it was"
        if (
            asked is not None
            and sparsity is None
            and not (error := relative_error(weight, dense)) <= most_error(asked)
        ):
            yield f"{name} is {error:.1%} away from the dense weight, at {asked.bits} bits"
        zeros = float((weight == 0).float().mean())
        if sparsity is not None and zeros < sparsity.fraction:
            yield f"{name} should have {sparsity.fraction:.0%} zeros and has {zeros:.1%}"


def relative_error(weight: torch.Tensor, dense: torch.Tensor) -> float:
    """Root mean square of the difference over that of the dense weight."""
    return float((weight - dense).square().mean().sqrt() / dense.square().mean().sqrt())


def most_error(asked: Format) -> float:
    """Beyond this no rounding to these codes comes: several times what round-to-nearest does to normal weights."""
    return {8: 0.06, 4: 0.35}[asked.bits] if asked.number_type == "float" else 2.0 ** (3 - asked.bits)


def most_values(weight: torch.Tensor, group_size: int | None) -> int:
    """Most different values in any group of a row; ``weight`` is ``(rows, columns)``."""
    groups = weight.reshape(-1, group_size or weight.shape[1]).sort(dim=1).values
    return int((groups.diff(dim=1) != 0).sum(dim=1).max()) + 1


if __name__ == "__main__":
    main()
