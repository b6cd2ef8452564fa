"""Documents, windows and the proof that texts share nothing."""

import bz2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.compressors.documents import TextPart, check_disjoint, read_documents, split_documents
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.spaces.errors import ModelError, TextError
from tests.models import tiny_tokenizer

MARKED = "First one.\n<|endoftext|>Second one, longer.<|endoftext|>\n<|endoftext|>Third"
SPACED = "First one.\nStill first.\n\n\nSecond one.\n \nThird"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"Document {n} says {n * n}.<|endoftext|>" for n in range(40)), encoding="utf-8")
    return file


def test_documents_end_with_a_mark_or_are_separated_by_blank_lines():
    assert [d.text for d in split_documents(MARKED)] == ["First one.\n", "Second one, longer.", "Third"]
    assert [d.text for d in split_documents(SPACED)] == [
        "First one.\nStill first.\n",
        "Second one.\n",
        "Third",
    ]
    assert [d.text for d in split_documents("no separator")] == ["no separator"]


@given(st.text(alphabet="ab \n\t", max_size=60))
def test_splitting_by_blank_lines_loses_no_word(text):
    found = split_documents(text)
    assert "".join("".join(d.text.split()) for d in found) == "".join(text.split())
    assert all(d.text.strip() for d in found)


def test_compressed_text_reads_the_same(tmp_path, text):
    packed = tmp_path / "text.txt.bz2"
    packed.write_bytes(bz2.compress(text.read_bytes()))
    assert read_documents(packed) == read_documents(text)


def test_documents_by_number(text):
    assert [d.text for d in read_documents(text, (3, 1))] == ["Document 3 says 9.", "Document 1 says 1."]
    with pytest.raises(TextError, match="40 documents"):
        read_documents(text, (40,))


def test_windows_are_the_text_in_order(tokenizer, text):
    found = read_windows(tokenizer, text, window_tokens=16)
    assert found.window_tokens == 16
    assert found.ids.dtype == torch.int64
    plain = text.read_text().replace("<|endoftext|>", "")
    assert tokenizer.decode(found.ids.reshape(-1).tolist()) == plain[: found.count * 16]
    assert len(plain) - found.count * 16 < 16


def test_the_end_of_a_document_has_its_token(text):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    found = read_windows(tokenizer, text, window_tokens=16, documents=(0, 1))
    whole = tokenizer("Document 0 says 0.<|endoftext|>Document 1 says 1.<|endoftext|>")["input_ids"]
    assert found.ids.reshape(-1).tolist() == whole[:32]
    assert end in whole[:32]


def test_every_window_begins_as_the_tokenizer_begins_texts(tokenizer, text):
    from tokenizers.processors import TemplateProcessing

    beginning = tiny_tokenizer()
    beginning.add_special_tokens({"bos_token": "<s>"})
    beginning.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", beginning.bos_token_id)]
    )
    found = read_windows(beginning, text, window_tokens=16)
    assert (found.ids[:, 0] == beginning.bos_token_id).all()
    assert (found.ids[:, 1:] != beginning.bos_token_id).all()
    assert torch.equal(found.ids[0, 1:], read_windows(tokenizer, text, window_tokens=15).ids[0])


def test_drawn_windows_are_nested_and_depend_on_the_seed_alone(tokenizer, text):
    few, many = (read_windows(tokenizer, text, window_tokens=16, count=n, seed=3) for n in (4, 12))
    assert torch.equal(many.ids[:4], few.ids)
    assert many.first(4).digest == few.digest
    assert len({tuple(row) for row in many.ids.tolist()}) == 12
    assert read_windows(tokenizer, text, window_tokens=16, count=4, seed=4).digest != few.digest
    again = read_windows(tokenizer, text, text="report", window_tokens=16, count=4, seed=3)
    assert again.digest == few.digest
    assert again.text == "report"


def test_too_little_text_is_refused(tokenizer, text):
    with pytest.raises(TextError, match="0 windows of 100000"):
        read_windows(tokenizer, text, window_tokens=100_000)
    with pytest.raises(TextError, match="1000 are needed"):
        read_windows(tokenizer, text, window_tokens=16, count=1000)
    with pytest.raises(TextError, match="9 windows"):
        TokenWindows.of(torch.zeros(3, 4), "search").first(9)


@pytest.mark.parametrize("content", [None, b"", b"  \n\n ", b"\xff\xfe\x00"])
def test_unreadable_text_is_refused(tmp_path, content):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TextError, match=r"text\.txt"):
        read_documents(file)


def test_tokens_beyond_the_embedding_are_refused():
    windows = TokenWindows.of(torch.tensor([[1, 2, 300]]), "report")
    windows.check_vocabulary(301)
    with pytest.raises(ModelError, match="token 300 in the report text"):
        windows.check_vocabulary(256)


def test_texts_that_share_a_document_are_refused(tmp_path, text):
    other = tmp_path / "other.txt"
    other.write_text("Something else.<|endoftext|>document  3 SAYS\n9.<|endoftext|>", encoding="utf-8")
    with pytest.raises(TextError, match="search text and the report text"):
        check_disjoint({"search": text, "report": other})
    check_disjoint({"search": TextPart(text, (0, 1, 2)), "report": TextPart(text, (4, 5)), "third": other})
    with pytest.raises(TextError, match="Document 2 says 4"):
        check_disjoint({"search": TextPart(text, (0, 1, 2)), "report": TextPart(text, (2, 5))})
