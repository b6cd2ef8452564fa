"""Lines that a user pastes are quoted so that they can be read; ``test_graph_engines`` runs those of graphs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from paretune.engines import find_engine

PROGRAMS = ["torch-cpu", "transformers", "onnxruntime", "openvino"]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("folder", ["export", "großes Modell", 'a "quoted" one', "back\\slash"])
def test_the_program_names_the_folder_in_words_that_python_reads(name, folder):
    line = find_engine(name).launch_line(Path("/models") / folder)
    program = shlex.split(line)[-1]
    compile(program, "<line>", "exec")
    assert json.dumps(f"/models/{folder}", ensure_ascii=False)[:-1] in program
    assert "'\"'" not in line


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_single_quote_survives_the_shell(name):
    line = find_engine(name).launch_line(Path("/models/Ada's"))
    assert "/models/Ada's" in shlex.split(line)[-1]
