"""Text files as lists of documents, and the proof that two texts share none.

A document ends with ``<|endoftext|>``; in a file without that mark, documents are separated by blank lines.
"""

from __future__ import annotations

import bz2
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.spaces.errors import TextError

END_OF_TEXT = "<|endoftext|>"
_BLANK_LINES = re.compile(r"(?<=\n)(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Document:
    """A document and what follows it in the file: the mark ``<|endoftext|>`` or white space."""

    text: str
    ending: str


@dataclass(frozen=True)
class TextPart:
    """Some documents of a file, counted from 0; ``None`` is all of them."""

    path: Path
    documents: tuple[int, ...] | None = None


def read_documents(path: Path, documents: Sequence[int] | None = None) -> list[Document]:
    """The documents of a file (``.bz2`` is decompressed), or those asked for, in the order asked.

    Raises:
        TextError: the file is unreadable or empty, or has no document of a given number.
    """
    found = split_documents(_read(path))
    if not found:
        raise TextError(f"text {path}", "holds no document", "Name a file with text in it")
    if documents is None:
        return found
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
    if END_OF_TEXT in text:
        *ended, rest = text.split(END_OF_TEXT)
        found = [Document(part, END_OF_TEXT) for part in ended] + [Document(rest, "")]
    else:
        found, start = [], 0
        for match in _BLANK_LINES.finditer(text):
            found.append(Document(text[start : match.start()], match.group()))
            start = match.end()
        found.append(Document(text[start:], ""))
    return [document for document in found if document.text.strip()]


def document_digest(document: Document) -> str:
    """SHA-256 of the text, blind to case, kinds of white space and ways of writing an accent."""
    normal = " ".join(unicodedata.normalize("NFKC", document.text).casefold().split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()


def check_disjoint(texts: Mapping[str, Path | TextPart]) -> None:
    """Refuse texts that share a document.

    Args:
        texts: file or part of a file, by the name of the text (``search``, ``report``).

    Raises:
        TextError: names the two texts and the beginning of the document they share.
    """
    owners: dict[str, str] = {}
    for name, source in texts.items():
        part = source if isinstance(source, TextPart) else TextPart(source)
        for document in read_documents(part.path, part.documents):
            owner = owners.setdefault(document_digest(document), name)
            if owner != name:
                beginning = " ".join(document.text.split())[:60]
                raise TextError(
                    f"document {beginning!r}",
                    f"is part of both the {owner} text and the {name} text",
                    "Use texts that share no document, or the key `documents` to divide a file",
                )


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (bz2.decompress(raw) if path.suffix == ".bz2" else raw).decode("utf-8")
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TextError(
            f"text {path}", f"cannot be read ({reason})", "Name a UTF-8 text file, plain or .bz2"
        ) from error
