"""Documents, windows and the proof that texts share nothing."""

import bz2
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.compressors.documents import (
    TextPart,
    check_disjoint,
    distinct,
    families,
    read_documents,
    remarks,
    split_documents,
)
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


# -- documents as people save them --------------------------------------------------------------------------------

PEOPLE = ["Ada", "Bert", "Cleo", "Dora", "Emil", "Fritz", "Gerda", "Hugo", "Ida", "Jon", "Karl", "Lena"]
PLACES = [
    "harbour",
    "mill",
    "market",
    "tower",
    "bridge",
    "church",
    "orchard",
    "quarry",
    "station",
    "garden",
    "lake",
    "sea",
]
SENTENCES = [
    " ".join(
        f"{name} keeps {n} {thing} beside the {place} of {name}." for thing in ("lamps", "ropes", "boats")
    )
    for n, (name, place) in enumerate(zip(PEOPLE, PLACES, strict=True))
]


def saved(folder, name, text, **how):
    file = folder / name
    file.write_bytes(text.encode(**how))
    return file


FORMS = {
    "marks": "<|endoftext|>".join,
    "blank lines": "\n\n".join,
    "CRLF": lambda parts: "\r\n\r\n".join(part.replace(". ", ".\r\n") for part in parts),
    "CR": "\r\r".join,
    "form feeds": "\f".join,
    "byte order mark": lambda parts: "\ufeff" + "\n\n".join(parts),
    "one line each": "\n".join,
    "one paragraph": " ".join,
    "wrapped": lambda parts: "\n\n".join(part.replace(" ", "\n") for part in parts),
    "upper case": lambda parts: "\n\n".join(parts).upper(),
    "JSON Lines with a mark": lambda parts: (
        "\ufeff" + "\r\n".join(json.dumps({"text": part}) for part in parts)
    ),
    "JSON Lines": lambda parts: "\n".join(json.dumps({"text": part}) for part in parts),
    "WikiText": lambda parts: "".join(f" \n = Title {n} = \n \n {part} \n" for n, part in enumerate(parts)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", ["marks", "blank lines", "one paragraph"])
def test_no_way_of_saving_a_text_hides_that_it_is_shared(tmp_path, form, other):
    """Four of eight documents are in both texts; then one of eight."""
    one = saved(tmp_path, "one.txt", FORMS[form](SENTENCES[:8]))
    for start in (4, 7):
        two = saved(tmp_path, "two.txt", FORMS[other](SENTENCES[start:12]))
        with pytest.raises(TextError, match="part of both the search text and the report text"):
            check_disjoint({"search": one, "report": two})
    check_disjoint({"search": one, "report": saved(tmp_path, "two.txt", FORMS[other](SENTENCES[8:]))})


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("one paragraph", "one line each")])
def test_documents_are_found_however_a_file_is_saved(tmp_path, form):
    found = read_documents(saved(tmp_path, "text.txt", FORMS[form](SENTENCES)))
    assert len(found) == len(SENTENCES)
    assert not any("\r" in d.text or "\ufeff" in d.text or "\f" in d.text for d in found)
    assert all(
        d.whole == (form in ("marks", "JSON Lines", "JSON Lines with a mark", "WikiText")) for d in found
    )


def test_headings_and_short_lines_are_no_contamination(tmp_path):
    def book(parts):
        return "\n\n".join(
            line for part in parts for line in ("Background", part, "* * *", "Yes.", "And so they went on.")
        )

    check_disjoint(
        {
            "search": saved(tmp_path, "one.txt", book(SENTENCES[:6])),
            "report": saved(tmp_path, "two.txt", book(SENTENCES[6:])),
        }
    )
    marked = [
        saved(tmp_path, f"{n}.txt", "Yes.<|endoftext|>" + "<|endoftext|>".join(SENTENCES[n : n + 3]))
        for n in (0, 3)
    ]
    check_disjoint({"search": marked[0], "report": marked[1]})


def test_lines_of_json_without_a_text_are_refused_by_name(tmp_path):
    for name, content, told in (
        (
            "a.jsonl",
            '{"text": "some"}\n{"prompt": "a", "answer": "b"}',
            r"line 2 of .*a\.jsonl: .*prompt, answer",
        ),
        ("b.jsonl", '{"text": "some"}\nnothing', r"line 2 of .*b\.jsonl"),
        ("c.txt", '{"messages": []}\n{"messages": []}', r"line 1 of .*messages"),
        ("d.json", '[{"text": "some"}]', r"line 1 of .*d\.json"),
        ("e.jsonl", "[" * 100_000, r"line 1 of .*e\.jsonl"),
    ):
        with pytest.raises(TextError, match=told):
            read_documents(saved(tmp_path, name, content))


def test_repeated_documents_count_once_and_relatives_stay_together(tmp_path):
    documents = split_documents(
        "<|endoftext|>".join([SENTENCES[0], SENTENCES[1], SENTENCES[0].upper(), SENTENCES[2]])
    )
    assert distinct(documents) == [0, 1, 3]
    kin = split_documents("<|endoftext|>".join([*SENTENCES[:3], SENTENCES[3] + " " + SENTENCES[1]]))
    assert families(kin) == [0, 1, 2, 1]
    file = saved(tmp_path, "twice.txt", "\n\n".join([*SENTENCES, *SENTENCES[:2]]))
    first, second = remarks(file, read_documents(file))
    assert "divided by paragraphs (14)" in first
    assert second == "2 of 14 paragraphs of twice.txt repeat others and do not count again"
    assert remarks(file, split_documents("<|endoftext|>".join(SENTENCES))) == ()


def test_windows_know_the_document_that_most_of_them_is_of(tokenizer, tmp_path):
    file = saved(tmp_path, "text.txt", "a" * 40 + "<|endoftext|>" + "b" * 24 + "<|endoftext|>" + "c" * 32)
    found = read_windows(tokenizer, file, window_tokens=16)
    assert found.documents == (0, 0, 0, 1, 2, 2)
    drawn = read_windows(tokenizer, file, window_tokens=16, count=4, seed=1)
    order = [found.ids.tolist().index(row) for row in drawn.ids.tolist()]
    assert [found.documents[place] in (0, 1, 2) for place in order] == [True] * 4
    assert drawn.first(2).documents == drawn.documents[:2]
    assert drawn.sample(1, 3).documents == drawn.documents[1:3]
    plain = read_windows(
        tokenizer, saved(tmp_path, "plain.txt", "a" * 40 + "\n\n" + "b" * 40), window_tokens=16
    )
    assert plain.documents == ()


def test_windows_are_known_by_their_tokens(tokenizer, text):
    few, many = (read_windows(tokenizer, text, window_tokens=16, count=n, seed=3) for n in (4, 12))
    assert many.sample().first(4) == few.sample()
    assert len(set(many.sample().windows)) == 12
