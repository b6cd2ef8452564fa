"""``paretune advise`` as a user meets it: text for people, JSON for machines, clear refusals."""

from __future__ import annotations

import io
import json

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from paretune.commands.advise import advise, show
from paretune.profiles.advice import Advice
from paretune.profiles.advice import advise as compute
from paretune.profiles.devices import find_device
from paretune.spaces.errors import ConfigurationError, ModelError, UnknownNameError
from paretune.spaces.target import Workload
from tests.profiles.fakes import llama, llama_folder


def run(*arguments: str):
    app = typer.Typer()
    app.command()(advise)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def folder(tmp_path):
    return str(llama_folder("8b", tmp_path))


def test_text_names_what_binds_and_every_format(folder):
    done = run(folder, "--device", "h100", "--workload", "batch=8,prompt=512,output=128")
    assert done.exit_code == 0, done.output
    for wanted in (
        "8,030.3 M parameters",
        "NVIDIA H100 80GB HBM3 (h100-sxm), batch 8, prompt 512 tokens, output 128 tokens",
        "Memory does not bind: 16.9 GB",
        "4-bit weights, groups of 128",
        "FP8 weights and inputs",
        "largest batch",
        "What to try, each on top of the one before",
        "1. 4-bit weights",
    ):
        assert wanted in done.output
    assert "\x1b[" not in done.output, "no colours in a pipe"


def test_the_table_says_what_computing_says(folder):
    done = run(folder, "--device", "l4", "--workload", "b1-p512-o128")
    row = next(line for line in done.output.splitlines() if line.startswith("4-bit weights"))
    assert "5.70 GB" in row
    advice = compute(llama_spec(folder), find_device("l4"), Workload(prompt_tokens=512, output_tokens=128))
    assert f"{advice.formats[-1].largest_batch:,}" in row.split()


def llama_spec(folder: str):
    from pathlib import Path

    return llama("8b", Path(folder))


def test_json_is_the_advice_itself(folder):
    done = run(folder, "--device", "a100-40", "--json")
    advice = Advice.model_validate_json(done.output)
    assert advice.device.name == "a100-40"
    assert json.loads(done.output)["formats"][0]["weight_bytes"] == 16_060_522_496


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--device", "h101"), UnknownNameError),
        (("--workload", "batch=none"), ConfigurationError),
        (("--workload", "prompt=200000"), ConfigurationError),
    ],
)
def test_refusals(folder, arguments, error):
    assert isinstance(run(folder, *arguments).exception, error)


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert isinstance(run(str(tmp_path)).exception, ModelError)


def test_on_a_terminal_there_is_colour(folder):
    screen = io.StringIO()
    advice = compute(llama_spec(folder), find_device("h100"), Workload())
    show(advice, Console(file=screen, force_terminal=True, width=120))
    assert "\x1b[1m" in screen.getvalue()


def test_every_option_names_its_unit():
    text = " ".join(run("--help").output.replace("│", " ").split())
    for unit in ("sequences", "tokens", "bytes, seconds"):
        assert unit in text
