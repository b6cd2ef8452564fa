"""The scores of every ranking of one model: made on first use by the dense model, kept beside the bank's entries."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.dense_state import dense_model
from paretune.compressors.entry_store import EntryStore
from paretune.compressors.rankings import find_ranking
from paretune.compressors.rankings.ranking import LABELS, AnswerTokens, Kind, Ranking, Scene
from paretune.compressors.streamed_model import StreamedModel
from paretune.compressors.weight_source import WeightSource
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import ConfigurationError, ModelError, RunError
from paretune.spaces.model import ModelSpec

_MADE_OF = "made_of"


@dataclass
class RankingBook:
    """Scores by name of the ranking.

    Attributes:
        store: of the bank; a ranking is its entry ``ranking/NAME``.
        spec: of the model.
        model: as the bank was opened with; it may have become a candidate since.
        source: its dense weights.
        checkpoint: folder to load the dense model from when ``model`` is a candidate.
        windows: calibration text.
        statistics: of the calibration text.
    """

    store: EntryStore
    spec: ModelSpec
    model: Any
    source: WeightSource
    checkpoint: Path | None
    windows: TokenWindows
    statistics: Any
    _made: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def importance(self, kind: str, block: int | None, name: str) -> torch.Tensor:
        """Scores of a kind; ``block`` where it is one of a block.

        Raises:
            ConfigurationError: the ranking does not score this kind, or the model has no such parts.
        """
        check_kind(find_ranking(name), kind)
        key = kind if kind in ("blocks", "width") else f"{kind}/{block}"
        found = self.scores(name).get(key)
        if found is None:
            raise ConfigurationError(
                f"ranking {name!r} of {LABELS[_kind(kind)]}",
                f"block {block} of {self.spec.source} has none that could be cut",
                "Leave them whole",
            )
        return found

    def scores(self, name: str) -> dict[str, torch.Tensor]:
        """All scores of a ranking, float32 on the CPU; computed if nobody has."""
        if name not in self._made:
            stored = _entry(name) in self.store
            self._made[name] = self._read(name) if stored else self.rank(name)
        return self._made[name]

    def rank(
        self, name: str, windows: TokenWindows | None = None, answers: AnswerTokens | None = None
    ) -> dict[str, torch.Tensor]:
        """Compute a ranking and keep it.

        Args:
            name: of the ranking.
            windows: text; the calibration text if left out.
            answers: of a task, for rankings that need them.

        Raises:
            UnknownNameError: there is no such ranking.
            RunError: it was made of another text before, which cut entries of the bank rely on; the model is a
                candidate and there is no checkpoint; answers are missing.
            ModelError: a score is not finite, or the ranking needs a model in memory.
        """
        ranking = find_ranking(name)
        text = windows or self.windows
        made_of = _made_of(ranking, text, answers)
        if _entry(name) not in self.store:
            self._make(ranking, text, answers, made_of)
        found = self.store.read(_entry(name))  # another process may have made it at the same time
        if not torch.equal(found[_MADE_OF], made_of):
            raise _other(name)
        return self._keep(name, found)

    def _make(
        self, ranking: Ranking, text: TokenWindows, answers: AnswerTokens | None, made_of: torch.Tensor
    ) -> None:
        name = ranking.name
        if ranking.needs_answers and answers is None:
            raise RunError(
                f"ranking {name!r}",
                "needs the answer tokens of a task",
                f"Call Bank.rank({name!r}, answers=...) before",
            )
        text.check_vocabulary(self.spec.vocabulary)
        scene = Scene(
            self._dense_model(ranking),
            self.spec,
            text.first(min(text.count, ranking.most_windows)),
            self.statistics,
            answers,
        )
        scores = {key: _checked(name, key, score) for key, score in ranking.scores(scene).items()}
        self.store.write(_entry(name), scores | {_MADE_OF: made_of})

    def _keep(self, name: str, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self._made[name] = {key: score for key, score in found.items() if key != _MADE_OF}
        return self._made[name]

    def _read(self, name: str) -> dict[str, torch.Tensor]:
        found = self.store.read(_entry(name))
        version = _version(find_ranking(name))
        if not torch.equal(found[_MADE_OF][: len(version)], version):
            raise _other(name)
        return {key: score for key, score in found.items() if key != _MADE_OF}

    def _dense_model(self, ranking: Ranking) -> Any:
        """The model itself while it is dense, else one that is loaded anew."""
        if isinstance(self.model, StreamedModel) and not ranking.streams:
            raise ModelError(
                f"ranking {ranking.name!r}",
                "needs the whole model in memory, and its weights stay on disk",
                "Load it, or rank by activation or entropy",
            )
        return dense_model(self.model, self.source, self.spec, self.checkpoint, f"ranking {ranking.name!r}")


def check_kind(ranking: Ranking, kind: str) -> None:
    """Refuse a kind that a ranking does not score.

    Raises:
        ConfigurationError: with the ranking's reason.
    """
    reason = ranking.refusals.get(_kind(kind))
    if reason is not None:
        raise ConfigurationError(
            f"ranking {ranking.name!r} of {LABELS[_kind(kind)]}", reason, "Rank by activation or taylor"
        )


def _kind(kind: str) -> Kind:
    for known in LABELS:
        if kind == known:
            return known
    raise ConfigurationError(f"{kind!r}", "is nothing that can be ranked", f"Known: {', '.join(LABELS)}")


def _entry(name: str) -> str:
    return f"ranking/{name}"


def _version(ranking: Ranking) -> torch.Tensor:
    return _digest(f"{ranking.name} {ranking.version}")


def _made_of(ranking: Ranking, text: TokenWindows, answers: AnswerTokens | None) -> torch.Tensor:
    """Digests of the arithmetic and of the text, uint8 ``(64,)``."""
    if ranking.needs_answers and answers is not None:
        mask = answers.mask.to("cpu", torch.uint8).contiguous().numpy().tobytes()
        return torch.cat(
            [_version(ranking), _digest(answers.windows.digest + hashlib.sha256(mask).hexdigest())]
        )
    return torch.cat([_version(ranking), _digest(text.digest)])


def _digest(text: str) -> torch.Tensor:
    return torch.tensor(list(hashlib.sha256(text.encode("utf-8")).digest()), dtype=torch.uint8)


def _checked(name: str, key: str, score: torch.Tensor) -> torch.Tensor:
    score = score.detach().to("cpu", torch.float32).contiguous()
    if not bool(score.isfinite().all()):
        raise ModelError(
            f"ranking {name!r} of {key}",
            "a score is not finite, so there is no order",
            "Check the model's activations, or rank by another name",
        )
    return score


def _other(name: str) -> RunError:
    return RunError(
        f"ranking {name!r} of the bank",
        "was made of another text or by another version, and cut entries rely on it",
        "Name another bank folder, or delete this one",
    )
