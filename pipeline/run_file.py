"""The run file: everything a search can be told, in YAML or JSON, with the defaults written out.

Options of the command line override it; what was finally used is in ``run.json``. The JSON schema is published in
``docs/run-file.schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from paretune.search.settings import SearchSettings
from paretune.spaces.errors import ParetuneError, RunError
from paretune.spaces.files import FileKind, parse_yaml, read_text
from paretune.spaces.patterns import Restrictions
from paretune.spaces.schema import Document, Frozen
from paretune.spaces.target import Workload

_RUN_FILE = FileKind("run file", RunError, "Mend it; docs/run-file.md has every key", 1 << 24)


class TextSource(Frozen):
    """A text file; documents end with ``<|endoftext|>``, or are separated by blank lines."""

    path: str = Field(description="Text file (.txt or .txt.bz2), UTF-8.")
    documents: tuple[int, ...] | None = Field(None, description="Use only these documents, counted from 0.")
    windows: int | None = Field(
        None, ge=1, description="Draw this many windows with the seed; all if left out."
    )


class Texts(Frozen):
    """Texts that share no document. ``single`` is split by document into the other three."""

    single: TextSource | None = Field(None, description="One text, split by document into the three below.")
    calibration: TextSource | None = Field(
        None, description="Statistics for quantizers, pruning and rankings."
    )
    search: TextSource | None = Field(None, description="What candidates are scored on.")
    report: TextSource | None = Field(None, description="What the front is reported on; never searched on.")
    window_tokens: int = Field(256, ge=16, description="Tokens of a window.")


class Tasks(Frozen):
    """lm-eval tasks that members of the front are scored on."""

    folder: str | None = Field(None, description="Folder of lm-eval YAML files that need no network.")
    names: tuple[str, ...] = Field((), description="Task names; empty with a folder takes all of it.")
    limit: int | None = Field(None, ge=1, description="Items of each task; all if left out.")
    batch_size: int = Field(32, ge=1, description="Sequences scored together.")


class RunFile(Document):
    """A run file. Unknown keys are errors."""

    model: str = Field(description="Hugging Face model folder or hub id.")
    revision: str | None = Field(None, description="Revision of a hub id.")
    engine: str = Field("torch-cpu", description="Registered engine that will run the export.")
    device: str = Field("auto", description="Registered device, or auto for this machine.")
    workload: Workload = Field(default_factory=Workload, description="Batch and lengths that costs are for.")
    texts: Texts = Field(default_factory=Texts)
    tasks: Tasks = Field(default_factory=Tasks)
    space: Restrictions = Field(default_factory=Restrictions)
    search: SearchSettings = Field(default_factory=SearchSettings)
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of scoring: float32 on a CPU, bfloat16 on a GPU unless told."
    )
    compute_device: str = Field("auto", description="Torch device that scores candidates.")
    memory_budget_bytes: int = Field(
        4 * 2**30,
        ge=0,
        description="Dense copies of quantized weights are kept up to this many bytes; packed above.",
    )
    measure_latency: bool = Field(True, description="Measure decode latency of at least eight candidates.")
    export: bool = Field(True, description="Export the recommended member and load it again.")
    gguf: bool = Field(
        False, description="Also write the exported member as GGUF and ask llama.cpp a question."
    )
    bank: str | None = Field(None, description="Folder of the bank; inside the run folder if left out.")


def read_run_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, not yet validated, so that options can override it.

    Of ``run.json`` of a run folder, its settings.

    Raises:
        RunError: unreadable, or not a mapping.
    """
    found = parse_yaml(read_text(path, _RUN_FILE), path, _RUN_FILE)
    if isinstance(found, dict) and "settings" in found and "schema_version" in found:
        found = found["settings"]
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise _RUN_FILE.refusal(path, "must hold a mapping with keys that are text")
    return found


def validate_run(values: dict[str, Any], where: str) -> RunFile:
    """The run that ``values`` describe.

    Raises:
        RunError: unknown keys or values out of range; the first fault is named with its place.
    """
    try:
        return RunFile.model_validate(values)
    except ValidationError as error:
        raise _as_run_error(error, where) from error


def merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``extra`` laid over it; ``None`` in ``extra`` means not given."""
    merged = dict(base)
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        elif isinstance(value, dict):
            inner = merge({}, value)
            if inner:
                merged[key] = inner
        elif value is not None:
            merged[key] = value
    return merged


def schema_text() -> str:
    """The published JSON schema, as text."""
    return json.dumps(RunFile.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _as_run_error(error: ValidationError, where: str) -> ParetuneError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ParetuneError):
        return cause
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return RunError(
            f"key {place!r} in {where}", "is not a key of a run file", "See docs/run-file.md for the keys"
        )
    if first["type"] == "missing":
        return RunError(f"{where} without {place!r}", "the key is required", f"Add {place}")
    shown = str(first.get("input"))[:60]
    return RunError(f"{place} = {shown} in {where}", first["msg"], "See docs/run-file.md for what is allowed")
