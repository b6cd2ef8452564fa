"""The three texts of a run: calibration, search and report share no document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.compressors.documents import (
    PASSAGE,
    SHINGLE,
    TextPart,
    check_disjoint,
    distinct,
    families,
    read_documents,
)
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.pipeline.run_file import Texts, TextSource
from paretune.spaces.errors import TextError
from paretune.spaces.model import ModelSpec
from paretune.spaces.numerals import counted

NAMES = ("calibration", "search", "report")
_SHARES = (0.25, 0.35, 0.4)
_MOST = {"calibration": 128, "search": 64, "report": 64}
"""Windows of a text where nobody says how many: what is read grows with them, what is learned hardly does."""


def read_texts(texts: Texts, tokenizer: Any, spec: ModelSpec, seed: int) -> dict[str, TokenWindows]:
    """Token windows of the three texts.

    Raises:
        TextError: a text is missing, too short, or shares a document with another; windows longer than the
            model's context.
    """
    check_context(texts.window_tokens, spec)
    sources = _sources(texts)
    check_disjoint({name: TextPart(Path(source.path), source.documents) for name, source in sources.items()})
    return {
        name: read_windows(
            tokenizer,
            Path(source.path),
            text=name,
            window_tokens=texts.window_tokens,
            count=source.windows,
            most=_MOST[name] if texts.windows is None else texts.windows,
            seed=seed,
            documents=source.documents,
        )
        for name, source in sources.items()
    }


def check_context(window_tokens: int, spec: ModelSpec) -> None:
    """Refuse windows that the model cannot read as a whole.

    Raises:
        TextError: they are longer than its context.
    """
    if window_tokens > spec.context:
        raise TextError(
            f"windows of {window_tokens} tokens",
            f"the model's context is {spec.context}",
            "Use shorter windows",
        )


def _sources(texts: Texts) -> dict[str, TextSource]:
    if texts.single is not None:
        return split_by_document(texts.single)
    found = {name: getattr(texts, name) for name in NAMES}
    missing = [name for name, source in found.items() if source is None]
    if missing:
        raise TextError(
            f"no {', '.join(missing)} text",
            "quality is measured on texts that share no document",
            "Give --text FILE (split by document), or --calibration-text, --search-text and --report-text",
        )
    return found


def split_by_document(source: TextSource) -> dict[str, TextSource]:
    """One text as three: documents are dealt out in order, so that each text gets about its share of characters.

    A document that repeats another is left out, and those that share a passage stay together.

    Raises:
        TextError: fewer than three documents that share nothing.
    """
    documents = read_documents(Path(source.path))
    asked = list(source.documents or range(len(documents)))
    numbers = [asked[place] for place in distinct([documents[number] for number in asked])]
    # Phrases that recur, as in articles made by a template, keep together what has them; unless that is everything.
    for words in (SHINGLE, PASSAGE):
        kin: dict[int, list[int]] = {}
        found = families([documents[number] for number in numbers], words)
        for number, family in zip(numbers, found, strict=True):
            kin.setdefault(family, []).append(number)
        if len(kin) >= len(NAMES):
            break
    if len(kin) < len(NAMES):
        raise TextError(
            f"{counted(len(kin), 'document')} in {source.path} that share{'s' * (len(kin) == 1)} nothing with others",
            f"{len(NAMES)} texts that share no document need at least as many",
            "Give a longer text, separate documents by <|endoftext|>, or give three files",
        )
    dealt: dict[str, list[int]] = {name: [] for name in NAMES}
    lengths = dict.fromkeys(NAMES, 0.0)
    for family_numbers in kin.values():
        name = min(NAMES, key=lambda name: lengths[name])
        dealt[name].extend(family_numbers)
        size = sum(len(documents[number].text) for number in family_numbers)
        lengths[name] += size / _SHARES[NAMES.index(name)]
    return {
        name: source.model_copy(update={"documents": tuple(sorted(chosen))}) for name, chosen in dealt.items()
    }
