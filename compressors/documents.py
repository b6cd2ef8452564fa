"""Text files as lists of documents, and the proof that two texts share none.

A document ends with ``<|endoftext|>``, is a line of a JSON Lines file with a field ``text``, an article under a heading
of WikiText (`` = Title = ``), or between ``<doc ...>`` and ``</doc>`` (WikiExtractor). A file with nothing of the kind
is divided by paragraphs, which are no documents. How a file was saved makes no difference: line ends, form feeds and
byte order marks are brought to one form.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from paretune.spaces.errors import TextError
from paretune.spaces.files import FileKind, decode_text, read_bytes

_TEXT = FileKind("text", TextError, "Name a UTF-8 text file, plain or .bz2", 1 << 32)
END_OF_TEXT = "<|endoftext|>"
_BLANK_LINES = re.compile(r"(?<=\n)(?:[ \t]*\n)+")
_ARTICLE = re.compile(r"^[ \t]*= [^=\n]+ =[ \t]*$", re.MULTILINE)
_MARKED = re.compile(r"^<doc [^>\n]*>[ \t]*$(.*?)^</doc>[ \t]*$", re.MULTILINE | re.DOTALL)
_LINE_ENDS = {
    "\r\n": "\n", "\f": "\n\n", "\u2029": "\n\n", "\ufeff": "", **dict.fromkeys("\r\v\x1c\x1d\x1e\x85\u2028", "\n")
}  # fmt: skip
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[^\\W{_CJK}]+|[{_CJK}]")
_LONG_LINE = 200
SHINGLE = 13
"""Words in a row that two texts have in common by no accident (Brown et al., 2020, appendix C)."""
PASSAGE = 25
"""Words in a row that may not be part of two texts; shorter ones are headings, refrains and phrases."""
_SHARE = 0.05
"""Share of a text that may consist of such shorter ones."""
_FEWEST_WORDS = 3
"""Of a marked document; "Yes." proves nothing."""


@dataclass(frozen=True)
class Document:
    """A document and what follows it in the file: the mark ``<|endoftext|>`` or white space.

    Attributes:
        whole: false for a paragraph of a file that does not say where its documents end.
    """

    text: str
    ending: str
    whole: bool = True


@dataclass(frozen=True)
class TextPart:
    """Some documents of a file, counted from 0; ``None`` is all of them."""

    path: Path
    documents: tuple[int, ...] | None = None


def read_documents(path: Path, documents: Sequence[int] | None = None) -> list[Document]:
    """The documents of a file (``.bz2`` is decompressed), or those asked for, in the order asked.

    Raises:
        TextError: the file is unreadable or empty, is JSON without texts, or has no document of a given number.
    """
    text = _read(path)
    records = _json_lines(path, text)
    found = split_documents(text) if records is None else records
    if not found:
        raise TextError(f"text {path}", "holds no document", "Name a file with text in it")
    return found if documents is None else chosen(path, found, documents)


def chosen(path: Path, found: Sequence[Document], documents: Sequence[int]) -> list[Document]:
    """Those of a file's documents that are asked for, in the order asked.

    Raises:
        TextError: the file has no document of a given number.
    """
    for index in documents:
        if not 0 <= index < len(found):
            raise TextError(
                f"document {index} of {path}",
                f"the file has {len(found)} documents, counted from 0",
                "Ask for one of them",
            )
    return [found[index] for index in documents]


def split_documents(text: str) -> list[Document]:
    """Documents of a text; those of white space alone are left out."""
    text = _with_plain_line_ends(text)
    articles = [match.start() for match in _ARTICLE.finditer(text)]
    if END_OF_TEXT in text:
        *ended, rest = text.split(END_OF_TEXT)
        found = [Document(part, END_OF_TEXT) for part in ended] + [Document(rest, "")]
    elif len(marked := _MARKED.findall(text)) > 1:
        found = [Document(part, END_OF_TEXT) for part in marked]
    elif len(articles) > 1:
        bounds = [0, *articles, len(text)]
        found = [Document(text[start:stop], "") for start, stop in pairwise(bounds)]
    else:
        found, start = [], 0
        for match in _BLANK_LINES.finditer(text):
            found.append(Document(text[start : match.start()], match.group(), whole=False))
            start = match.end()
        found.append(Document(text[start:], "", whole=False))
    found = [document for document in found if document.text.strip()]
    lines = text.splitlines(keepends=True)
    if len(found) == 1 and not found[0].whole and len(text) >= _LONG_LINE * len(lines) > _LONG_LINE:
        found = [Document(line, "", whole=False) for line in lines if line.strip()]
    return found


def distinct(documents: Sequence[Document]) -> list[int]:
    """Numbers of the documents that none before them repeats."""
    first: dict[bytes, int] = {}
    for number, document in enumerate(documents):
        words = " ".join(_words(document.text)) or document.text
        first.setdefault(hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest(), number)
    return list(first.values())


def families(documents: Sequence[Document], words_shared: int = PASSAGE) -> list[int]:
    """A number for each document, the same for those that share so many words in a row: they belong in one text."""
    words = _Words(documents, {})
    _, firsts, places = np.unique(words.shingles, return_index=True, return_inverse=True)
    owner = words.owners[firsts[places]]
    family = list(range(len(documents)))

    def root(number: int) -> int:
        while family[number] != number:
            number = family[number]
        return number

    for start, stop in _runs(owner != words.owners[: len(owner)], words_shared):
        for pair in np.unique(
            np.stack([words.owners[start:stop], owner[start:stop]], axis=1), axis=0
        ).tolist():
            one, two = sorted(map(root, pair))
            family[two] = one
    return [root(number) for number in range(len(documents))]


def remarks(path: Path, documents: Sequence[Document]) -> tuple[str, ...]:
    """What a user should know of how a file was divided."""
    found = []
    if len(documents) > 1 and not documents[0].whole:
        found.append(
            f"{path.name} does not say where its documents end, so it is divided by paragraphs ({len(documents)}) and "
            f"errors are clustered by window; {END_OF_TEXT} between documents is better"
        )
    repeated = len(documents) - len(distinct(documents))
    if repeated:
        what = "documents" if documents[0].whole else "paragraphs"
        found.append(
            f"{repeated} of {len(documents)} {what} of {path.name} repeat others and do not count again"
        )
    return tuple(found)


def check_disjoint(texts: Mapping[str, Path | TextPart]) -> None:
    """Refuse texts that share a document or a long passage, however their files are divided or saved.

    Shared are: a document that the file marks as one, if the other text has half of it; 25 words in a row, letters and
    digits alone counted, case ignored; and so many shorter passages that they make a twentieth of a text. Headings and
    short lines that recur are no contamination.

    Args:
        texts: file or part of a file, by the name of the text (``search``, ``report``).

    Raises:
        TextError: names the two texts and the beginning of what they share.
    """
    known: dict[str, _Words] = {}
    vocabulary: dict[str, int] = {}
    for name, source in texts.items():
        part = source if isinstance(source, TextPart) else TextPart(source)
        words = _Words(read_documents(part.path, part.documents), vocabulary)
        for owner, other in known.items():
            shared = words.shared_with(other) or other.shared_with(words)
            if shared is not None:
                raise TextError(
                    shared,
                    f"is part of both the {owner} text and the {name} text",
                    "Use texts that share no document, or the key `documents` to divide a file",
                )
        known[name] = words


class _Words:
    """The words of some documents, one after the other.

    Attributes:
        shingles: a hash of every run of words, by the place where it begins.
        owners: number of the document of each word.
    """

    def __init__(self, documents: Sequence[Document], vocabulary: dict[str, int]) -> None:
        self._documents = documents
        self._vocabulary = vocabulary
        parts = [
            np.array(
                [vocabulary.setdefault(word, len(vocabulary)) for word in _words(document.text)], np.uint64
            )
            for document in documents
        ]
        self._short = {part.tobytes() for part in parts if len(part) < SHINGLE}
        self._ids = np.concatenate([np.empty(0, np.uint64), *parts])
        self._bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        self.owners = np.repeat(np.arange(len(parts)), np.diff(self._bounds))
        mixed = (self._ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
        count = max(0, len(self._ids) - SHINGLE + 1)
        self.shingles = np.zeros(count, dtype=np.uint64)
        for place in range(SHINGLE):
            self.shingles = self.shingles * np.uint64(0xD6E8FEB86659FD93) + mixed[place : place + count]

    def shared_with(self, other: _Words) -> str | None:
        """The beginning of something that the other text has too."""
        same = np.isin(self.shingles, other.shingles)
        for number, (start, stop) in enumerate(zip(self._bounds[:-1], self._bounds[1:], strict=True)):
            document, inside = self._documents[number], same[start : max(start, stop - SHINGLE + 1)]
            if not document.whole or stop - start < _FEWEST_WORDS:
                continue
            short = self._ids[start:stop].tobytes()
            if inside.mean() >= 0.5 if len(inside) else short in other._short:
                return f"document {' '.join(document.text.split())[:60]!r}"
        passage = next(iter(_runs(same, PASSAGE)), None)
        if passage is None and len(same) and same.mean() > _SHARE:
            passage = int(same.argmax()), int(same.argmax()) + SHINGLE
        if passage is None:
            return None
        names = list(self._vocabulary)
        words = [names[number] for number in self._ids[passage[0] :][:PASSAGE].tolist()]
        return f"passage {' '.join(words)[:60]!r}"


def _runs(same: np.ndarray, words: int) -> list[tuple[int, int]]:
    """Bounds of the runs of true shingles that cover so many words or more."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(start, stop) for start, stop in pairs if stop - start + SHINGLE - 1 >= words]


def _words(text: str) -> list[str]:
    """Words without case, punctuation and ways of writing an accent; each sign of scripts without spaces is one."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _with_plain_line_ends(text: str) -> str:
    for mark, plain in _LINE_ENDS.items():
        text = text.replace(mark, plain)
    return text


def _json_lines(path: Path, text: str) -> list[Document] | None:
    """A document for each line of JSON Lines; ``None`` for a file of another kind.

    Raises:
        TextError: a line that is no JSON, or has no text.
    """
    named = any(suffix in (".json", ".jsonl", ".ndjson") for suffix in path.suffixes)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not named and not (lines and isinstance(_parsed(lines[0][1]), dict)):
        return None
    found = []
    for number, line in lines:
        record = _parsed(line)
        value = record.get("text") if isinstance(record, dict) else None
        if not isinstance(value, str):
            keys = f" (it has {', '.join(map(str, record))})" if isinstance(record, dict) else ""
            raise TextError(
                f"line {number} of {path}",
                f"is no JSON object with a text{keys}"[:300],
                'Give one object a line, {"text": "..."}, or plain text',
            )
        if value.strip():
            found.append(Document(_with_plain_line_ends(value), END_OF_TEXT))
    return found


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read(path: Path) -> str:
    raw = read_bytes(path, _TEXT)
    if path.suffix == ".bz2":
        try:
            raw = bz2.BZ2File(io.BytesIO(raw)).read(_TEXT.largest + 1)
        except (OSError, ValueError, EOFError) as error:
            raise _TEXT.refusal(path, f"cannot be read ({error})") from error
        if len(raw) > _TEXT.largest:
            raise _TEXT.refusal(path, f"is larger than {_TEXT.largest:,} bytes")
    return decode_text(raw, path, _TEXT)
