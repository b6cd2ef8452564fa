"""The run file: everything a search can be told, in YAML or JSON, with the defaults written out.

The words of the command line and of :func:`paretune.search` override it; what was finally used is in ``run.json``. The
JSON schema is published in ``docs/run-file.schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from paretune import demo
from paretune.evaluators.tasks import TaskSettings
from paretune.pipeline.models import EMBEDDED
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
        None,
        ge=1,
        description="Draw this many windows with the seed; as `windows` of all texts says if left out.",
    )


class Texts(Frozen):
    """Texts that share no document. ``single`` is split by document into the other three."""

    single: TextSource | None = Field(None, description="One text, split by document into the three below.")
    calibration: TextSource | None = Field(None, description="Statistics for quantizers and pruning.")
    search: TextSource | None = Field(None, description="What candidates are scored on.")
    report: TextSource | None = Field(None, description="What the front is reported on; never searched on.")
    windows: int | None = Field(
        None, ge=0,
        description="Windows drawn from each text that names no number of its own, at most; 0: all. 128 of the "
        "calibration text and 64 of the others if left out.",
    )  # fmt: skip
    window_tokens: int = Field(256, ge=16, description="Tokens of a window.")


class Tasks(Frozen):
    """lm-eval tasks that members of the front are scored on."""

    folder: str | None = Field(None, description="Folder of lm-eval YAML files that need no network.")
    names: tuple[str, ...] = Field((), description="Task names; empty with a folder takes all of it.")
    limit: int | None = Field(None, ge=1, description="Items of each task; all if left out.")
    batch_size: int = Field(32, ge=1, description="Sequences scored together.")

    @property
    def settings(self) -> TaskSettings | None:
        """For their scorer; ``None`` where the run has no tasks."""
        if self.folder is None and not self.names:
            return None
        folder = None if self.folder is None else Path(self.folder)
        return TaskSettings(self.names, folder, self.limit, self.batch_size)


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
    compute_dtype: Literal["auto", "float16", "tf32", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of scoring: float32 on a CPU; on a GPU tf32 where its noise is below kl_floor, else "
        "float32; float16 where these have no room.",
    )
    kl_floor: float = Field(
        1e-5, gt=0, description="Nats of KL that the arithmetic of scoring may add on a GPU."
    )
    compute_device: str = Field("auto", description="Torch device that scores candidates.")
    memory_budget_bytes: int | None = Field(
        None,
        ge=0,
        description="Of weights of candidates that are kept where they are scored, packed and expanded: 4 GiB of "
        "expanded ones on a CPU, what is free on a GPU.",
    )
    measure_latency: bool = Field(True, description="Measure decode latency of at least eight candidates.")
    export: bool = Field(True, description="Export the recommended member and load it again.")
    gguf: bool = Field(
        False, description="Also write the exported member as GGUF and ask llama.cpp a question."
    )
    bank: str | None = Field(None, description="Folder of the bank; inside the run folder if left out.")

    @property
    def searched_tasks(self) -> tuple[str, ...]:
        """Tasks that the search itself chooses by: those of its objectives and limits."""
        asked = (*self.search.objectives, *(limit.metric for limit in self.search.parsed_limits))
        return tuple(dict.fromkeys(x.removeprefix("task.") for x in asked if x.startswith("task.")))


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


EMBEDDED_RUN: dict[str, Any] = {
    "model": EMBEDDED,
    "texts": {
        "calibration": {"path": str(demo.TEXTS / "calibration.txt"), "windows": 64},
        "search": {"path": str(demo.TEXTS / "search.txt"), "windows": 64},
        "report": {"path": str(demo.TEXTS / "report.txt"), "windows": 64},
        "window_tokens": 256,
    },
    "tasks": {"folder": str(demo.TASKS), "limit": 100},
    "workload": {"batch": 1, "prompt_tokens": 64, "output_tokens": 64},
    "search": {"minutes": 1.6},
    "gguf": True,
}
"""What is searched without a word: on two cores in five minutes."""

DEFAULT_MINUTES = 30.0
"""Of a search that nothing bounds: enough to see what a model's layers are like, and an end that will come."""
_BOUNDS = {"minutes", "max_evaluations", "max_candidates"}

_KEYS = {
    "text": "texts.single.path", "calibration_text": "texts.calibration.path", "search_text": "texts.search.path",
    "report_text": "texts.report.path", "windows": "texts.windows", "window_tokens": "texts.window_tokens",
    "tasks": "tasks.folder", "task_names": "tasks.names", "task_limit": "tasks.limit",
    **{word: f"space.{word}" for word in ("bits", "embedding_bits", "group_size", "methods", "formats", "rules")},
    **{
        word: f"search.{word}"
        for word in ("limits", "objectives", "sampler", "minutes", "max_evaluations", "seed")
    },
}  # fmt: skip
"""Where a word stands in a run file, if not under its own name."""


def settings_of(words: Mapping[str, Any], run_file: Path | None = None) -> RunFile:
    """The settings that words give, over those of a run file.

    Args:
        words: of :func:`paretune.search`; ``None`` means not given.
        run_file: that they override.

    Raises:
        RunError: unknown keys, values out of range, a run file that cannot be read.
    """
    values: dict[str, Any] = {}
    for word, value in words.items():
        if value is not None:
            _put(values, _KEYS.get(word, word), _plain(word, value))
    values = merge({} if run_file is None else read_run_file(run_file), values)
    if values.setdefault("model", EMBEDDED) == EMBEDDED:
        values = merge(EMBEDDED_RUN, values)
    elif not _BOUNDS & set(values.get("search") or {}):
        values = merge(values, {"search": {"minutes": DEFAULT_MINUTES}})
    return validate_run(values, "the options" if run_file is None else str(run_file))


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for part in outer:
        values = values.setdefault(part, {})
    values[last] = value


def _plain(word: str, value: Any) -> Any:
    """A word's value as a run file has it."""
    if word == "workload" and isinstance(value, str):
        return Workload.parse(value).model_dump()
    if word == "rules":
        return [_rule(rule) if isinstance(rule, str) else rule for rule in value]
    if word == "group_size" and value == 0:
        return None  # one scale per channel
    return str(value) if isinstance(value, Path) else value


def _rule(text: str) -> dict[str, Any]:
    """``PATTERN:key=value,value;key=value`` as the mapping of a run file."""
    kind = FileKind(
        "rule", RunError, "It reads PATTERN:key=value,value;key=value, e.g. '*.down_proj:bits=4,8'"
    )
    pattern, _, rest = text.rpartition(":")
    parts = [part.split("=", 1) for part in rest.split(";") if part.strip()]
    if not pattern or not parts or any(len(part) != 2 for part in parts):
        raise kind.refusal(text, "names no pattern, or a part is no key=value")
    found: dict[str, Any] = {"pattern": pattern}
    for key, values in parts:
        name = key.strip()
        found[name] = parse_yaml(values if name == "group_size" else f"[{values}]", text, kind)
    return found


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``extra`` laid over it."""
    merged = dict(base)
    for key, value in extra.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
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
