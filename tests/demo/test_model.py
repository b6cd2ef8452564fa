"""The committed model and tokenizer load offline and are as announced; the trained decoder is that Llama."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune import demo
from paretune.demo.corpus import read_corpus
from paretune.demo.decoder import Decoder, to_llama
from paretune.demo.generate import END_OF_TEXT, documents
from paretune.demo.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo.MODEL, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo.MODEL, local_files_only=True).eval()


def test_importing_demo_is_light() -> None:
    code = (
        "import sys; from paretune import demo; "
        "assert not {'torch', 'transformers'} & set(sys.modules); print(demo.MODEL)"
    )
    root = Path(demo.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert Path(done.stdout.strip()) == demo.MODEL


def test_model_is_small_and_its_widths_suit_every_engine(model: Any) -> None:
    assert (demo.MODEL / "model.safetensors").stat().st_size <= 8_000_000
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_738_880
    assert model.dtype == torch.bfloat16
    config = model.config
    assert config.hidden_size % 256 == config.intermediate_size % 256 == 0
    assert config.tie_word_embeddings
    assert config.max_position_embeddings >= 512


def test_model_predicts_its_texts_far_better_than_chance(model: Any, tokenizer: Any) -> None:
    text = (demo.TEXTS / "report.txt").read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text[:20_000])["input_ids"][:4096]).view(8, 512)
    with torch.inference_mode():
        loss = model.float()(input_ids=ids, labels=ids).loss
    assert loss < 2.0


def test_generation_config_ends_with_the_end_of_text(tokenizer: Any) -> None:
    generation = json.loads((demo.MODEL / "generation_config.json").read_text(encoding="utf-8"))
    assert (
        generation["eos_token_id"] == tokenizer.convert_tokens_to_ids(END_OF_TEXT) == tokenizer.eos_token_id
    )


@given(text=st.text(max_size=60))
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_tokens_and_names_are_two(tokenizer: Any) -> None:
    assert len(tokenizer) == 768
    assert tokenizer.tokenize("97+45=142;") == list("97+45=142;")
    assert tokenizer.tokenize(" Tolu") == ["ĠTo", "lu"]
    assert tokenizer.tokenize(f"a{END_OF_TEXT}")[-1] == END_OF_TEXT


def test_decoder_and_llama_have_the_same_logits() -> None:
    torch.manual_seed(0)
    decoder = Decoder()
    ids = torch.randint(0, 768, (2, 40))
    with torch.inference_mode():
        logits = to_llama(decoder, 0)(input_ids=ids).logits
        torch.testing.assert_close(logits, decoder(ids), atol=1e-5, rtol=1e-4)


def test_corpus_knows_where_documents_begin() -> None:
    small = train_tokenizer(documents("train", 60))
    corpus = read_corpus(small, 30, processes=1)
    again = [small.decode(corpus.tokens[start : start + 400].tolist()) for start in corpus.starts[:5]]
    for text, document in zip(again, documents("train", 5), strict=True):
        assert text.startswith(document[:200])
    windows = corpus.windows(6, 32, torch.Generator().manual_seed(0))
    assert windows.shape == (6, 33)
    assert windows.dtype == torch.int64
