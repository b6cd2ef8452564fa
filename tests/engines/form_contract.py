"""What every form of checkpoint must do; a new one subclasses :class:`FormContract` and names itself."""

from __future__ import annotations

import json
import os

import pytest
import torch

from paretune.engines.engine import ExportCard
from paretune.engines.forms import DEFAULT_FORM, Form, find_form
from paretune.engines.manifest import check_files, read_manifest
from paretune.engines.transformers_engine import Transformers
from paretune.engines.verification import verify_export
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineError, VerificationError
from paretune.spaces.size import weight_bytes
from tests.engines.conftest import REQUIRED, choice, uniform
from tests.engines.form_layouts import READERS, tensors_of

IN_THIS_ENVIRONMENT = {"bitsandbytes"}
"""Loaders that the extra ``test`` brings; others have pins of their own and may be absent wherever we are tested."""


def loading(name: str) -> Transformers:
    """An engine of this form; where it cannot be loaded, the test is skipped or, if it should be there, fails."""
    engine = Transformers(name)
    verdict = engine.available()
    if verdict:
        return engine
    packages = getattr(engine.form, "packages", ())
    if os.environ.get(REQUIRED) and set(packages) <= IN_THIS_ENVIRONMENT:
        pytest.fail(f"{name} cannot be loaded here: {verdict.reason} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(f"{name} cannot be loaded here: {verdict.reason}")


class FormContract:
    """Subclass, set ``name`` and ``accepted``, and what is below runs."""

    name: str
    accepted: tuple[LayerChoice, ...]
    """Choices that it holds for all linears of a tiny model's blocks; the first one is loaded."""
    families: tuple[str, ...] = ("llama",)
    """That are exported and read back."""
    shape = PrunedShape(blocks=(0, 2), ffn_channels=128)

    @pytest.fixture
    def form(self) -> Form:
        return find_form(self.name)

    def test_it_says_who_it_is_and_what_it_needs(self, form):
        assert form.name == self.name
        assert form.numeric_path
        assert form.available() or "nstall" in form.available().reason
        assert Transformers(self.name).form_name == ("" if self.name == DEFAULT_FORM else self.name)

    def test_what_it_holds_is_as_large_as_announced_and_says_its_form(self, form, bench, tmp_path):
        for index, wanted in enumerate(self.accepted):
            for family in self.families:
                one = bench(family)
                config = uniform(one.spec, wanted, WHOLE)
                assert form.ruling(one.spec, config), wanted.name
                place = tmp_path / f"{index}{family}"
                folder = form.export(one.assembler, config, place, ExportCard(one.folder, "few"))
                check_files(folder)
                manifest, values = read_manifest(folder), json.loads((folder / "config.json").read_text())
                written = sum(tensor.nbytes for tensor in tensors_of(folder).values())
                assert manifest["weight_bytes"] == weight_bytes(form.stored(one.spec), config) == written
                assert manifest.get("form", DEFAULT_FORM) == self.name
                assert manifest["engine"] == "transformers"
                assert values["quantization_config"]["quant_method"] == self.name
                assert f"- {self.name}\n" in (folder / "README.md").read_text()

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, form, bench, tmp_path):
        one = bench("llama")
        rounded = self.accepted[0].model_copy(update={"activation": ActivationFormat(strategy="token")})
        down = "model.layers.1.mlp.down_proj"
        for wanted in (*self.refused(), *([] if self.name == DEFAULT_FORM else [rounded])):
            config = CompressionConfig(layers={down: wanted})
            verdict = form.ruling(one.spec, config)
            assert not verdict, wanted.name
            assert down in verdict.reason
            assert verdict.source
            with pytest.raises(EngineError, match="down_proj") as error:
                form.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder))
            assert error.value.remedy
        assert not list(tmp_path.iterdir())

    def refused(self) -> tuple[LayerChoice, ...]:
        """Choices that it has no place for."""
        return (choice(4, 48),)

    @pytest.mark.engine
    @pytest.mark.parametrize("pruned", [WHOLE, shape], ids=lambda s: s.name)
    def test_an_export_loads_and_agrees(self, bench, tmp_path, pruned):
        engine, one = loading(self.name), bench("llama", tie_word_embeddings=True)
        layers = uniform(one.spec, self.accepted[0], pruned).layers
        kept = dict(list(layers.items())[1:])  # one linear stays as the model has it
        config = CompressionConfig(layers=kept, pruned=pruned)
        folder = engine.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder))
        found = verify_export(engine, one.assembler, config, folder, one.ids)
        assert found.kl < found.tolerance

    @pytest.mark.engine
    def test_other_weights_of_the_same_bytes_are_not_taken_for_it(self, bench, tmp_path):
        engine, one = loading(self.name), bench("llama")
        config, other = (
            uniform(one.spec, self.accepted[0], PrunedShape(blocks=kept)) for kept in ((0, 1), (0, 2))
        )
        folder = engine.export(one.assembler, other, tmp_path / "export", ExportCard(one.folder))
        assert weight_bytes(engine.stored(one.spec), config) == read_manifest(folder)["weight_bytes"]
        with pytest.raises(VerificationError, match="differs from the searched candidate"):
            verify_export(engine, one.assembler, config, folder, one.ids)


class PackedFormContract(FormContract):
    """Of forms with a packing of ours."""

    def test_weights_read_back_are_those_of_the_candidate(self, form, bench, tmp_path):
        """By another implementation of the layout, bit for bit, in a pruned model that lost a block and channels."""
        one = bench("llama")
        for index, wanted in enumerate(self.accepted):
            config = uniform(one.spec, wanted, self.shape)
            folder = form.export(one.assembler, config, tmp_path / str(index), ExportCard(one.folder))
            values = json.loads((folder / "config.json").read_text())["quantization_config"]
            found = tensors_of(folder)
            for name in config.layers:
                path = name.replace("layers.2.", "layers.1.")
                expected = one.assembler.bank.tensor(name, wanted, self.shape)
                assert torch.equal(READERS[self.name](found, path, values), expected), (name, wanted.name)
