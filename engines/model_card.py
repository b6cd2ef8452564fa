"""``README.md`` of an export: what it is, how good it is, how to run it, whose licence applies."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from paretune.engines.engine import ExportCard
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import average_bits, kept_linears, weight_bytes

TRANSFORMERS = (
    "```python",
    "from transformers import AutoModelForCausalLM",
    "",
    'model = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER")',
    "```",
)
"""How a checkpoint is run."""

_LICENCE = re.compile(r"^license(?:_name)?:\s*(\S+)\s*$", re.MULTILINE)


def base_licence(source: Path) -> str | None:
    """The licence that the base model's card names, if it has one."""
    card = source / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    front, _, _ = text.removeprefix("---\n").partition("\n---")
    found = _LICENCE.search(front) if text.startswith("---\n") else None
    return found.group(1) if found else None


def model_card(
    spec: ModelSpec,
    config: CompressionConfig,
    card: ExportCard,
    licence: str | None,
    notes: tuple[str, ...],
    *,
    tags: tuple[str, ...] = ("compressed-tensors",),
    use: tuple[str, ...] = TRANSFORMERS,
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        spec: of the dense model.
        config: of the candidate.
        card: what the export says about itself.
        licence: of the base model.
        notes: what a user has to know.
        tags: of the folder, besides ours; the first two are its formats.
        use: lines that show how it is run.
    """
    library = ["library_name: transformers"] if use is TRANSFORMERS else []
    lines = ["---", *library, "tags:", *(f"- {tag}" for tag in (*tags, "paretune"))]
    lines += [f"license: {licence}"] if licence else []
    lines += ["---", "", f"# {card.name}", ""]
    lines += [f"Compressed from `{_base_name(spec)}` ({spec.architecture}) by Paretune.", ""]
    lines += [
        f"- {weight_bytes(spec, config):,} bytes of weights, "
        f"{average_bits(spec, config):.3f} bits a weight inside the blocks",
        f"- formats: {_formats(spec, config)}",
        f"- pruned model: {config.pruned.name}; key-value cache: {config.kv.name}",
    ]
    lines += [f"- {note}" for note in notes]
    shown = {column: value for column, value in card.figures.items() if value is not None}
    if shown:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {column} | {value:.6g} |" for column, value in shown.items()]
    lines += ["", *use, ""]
    lines += ["`paretune.json` has the configuration, where it comes from, and hashes of the files.", ""]
    licensed = f"`{licence}`" if licence else "unknown; see the base model"
    lines += [f"Licence of the base model: {licensed}. It applies to this folder too.", ""]
    return "\n".join(lines)


def _base_name(spec: ModelSpec) -> str:
    """The name without the folders of the machine that it was made on."""
    source = Path(spec.source)
    return source.name if source.is_absolute() else spec.source


def _formats(spec: ModelSpec, config: CompressionConfig) -> str:
    counted = Counter(config.choice(linear.name).name for linear in kept_linears(spec, config))
    return ", ".join(f"{name} ({count})" for name, count in sorted(counted.items()))
