"""What every export has besides what its engine loads: licence, tokenizer, card, manifest; written whole or not at all.

``README.md`` says what it is, how good it is, how to run it, and whose licence applies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paretune.engines.engine import ExportCard
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.files import write_whole, written_whole
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


@dataclass(frozen=True)
class ExportKind:
    """What all exports for one engine, in one form, say of themselves.

    Attributes:
        engine: registered name of the engine that loads it.
        tags: of the model card, besides ours; the first two are its formats.
        packages: whose versions are recorded.
        form: name of the form, empty where it is the engine's usual one.
        notes: what a user has to know.
        use: lines of the card that show how it is run.
    """

    engine: str
    tags: tuple[str, ...]
    packages: tuple[str, ...]
    form: str = ""
    notes: tuple[str, ...] = ()
    use: tuple[str, ...] = TRANSFORMERS


def write_export(
    kind: ExportKind,
    spec: ModelSpec,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    write: Callable[[Path], int],
    companions: tuple[str, ...] | None = None,
) -> Path:
    """Write an export into ``folder``, whole or not at all, and return it: what is loaded, then what goes with it.

    Args:
        kind: of the export.
        spec: of the dense model, as the engine's container stores it.
        config: of the candidate.
        folder: absent or empty.
        card: what the export says about itself.
        write: what is loaded, into a folder; returns the bytes of its tensors.
        companions: patterns of what is copied from beside the dense model; all that a checkpoint has if left out.

    Raises:
        EngineError: the folder is not empty, the disk is full, or what was written is not as large as it was announced.
    """
    from paretune.compressors.companions import COMPANIONS, copy_companions
    from paretune.engines.manifest import write_manifest

    with written_whole(folder) as partial:
        written, announced = write(partial), weight_bytes(spec, config)
        if written != announced:
            raise EngineError(
                f"export of {card.name}",
                f"{written} bytes of tensors were written and {announced} announced",
                "Report this: a format's container and its size disagree",
            )
        copy_companions(card.source, partial, companions or COMPANIONS)
        write_whole(partial / "README.md", model_card(spec, config, card, kind))
        write_manifest(
            partial, spec, config, card,
            engine=kind.engine, form=kind.form, notes=kind.notes, packages=kind.packages,
        )  # fmt: skip
    return folder


def base_licence(source: Path) -> str | None:
    """The licence that the base model's card names, if it has one."""
    card = source / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    front, _, _ = text.removeprefix("---\n").partition("\n---")
    found = _LICENCE.search(front) if text.startswith("---\n") else None
    return found.group(1) if found else None


def model_card(spec: ModelSpec, config: CompressionConfig, card: ExportCard, kind: ExportKind) -> str:
    """Markdown with the front matter that model hubs read."""
    from paretune.spaces.refusals import beside_language

    licence = base_licence(card.source)
    library = ["library_name: transformers"] if kind.use is TRANSFORMERS else []
    lines = ["---", *library, "tags:", *(f"- {tag}" for tag in (*kind.tags, "paretune"))]
    lines += [f"license: {licence}"] if licence else []
    lines += ["---", "", f"# {card.name}", ""]
    lines += [f"Compressed from `{_base_name(spec)}` ({spec.architecture}) by Paretune.", ""]
    lines += [
        f"- {weight_bytes(spec, config):,} bytes of weights, "
        f"{average_bits(spec, config):.3f} bits a weight inside the blocks",
        f"- formats: {_formats(spec, config)}",
        f"- pruned model: {config.pruned.name}; key-value cache: {config.kv.name}",
    ]
    beside = beside_language(spec)
    lines += [f"- {note}" for note in (*kind.notes, *beside)]
    shown = {column: value for column, value in card.figures.items() if value is not None}
    if shown:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {column} | {value:.6g} |" for column, value in shown.items()]
    use = [line.replace("ForCausalLM", "ForImageTextToText") if beside else line for line in kind.use]
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
