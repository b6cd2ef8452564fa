"""Optuna's storage of a run: one finished trial a candidate, for dashboards and for Optuna's own tools.

The journal is a copy for readers; ``records.jsonl`` is the truth. A trial holds the digest, the name, the
parameters of the model as a whole, the objectives and the named constraints: hundreds of parameters a trial would
cost more than scoring it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.search.scoring import value_of
from paretune.spaces.files import WRONG_CONTENT, cannot_write, drop_torn_line
from paretune.spaces.measurement import Record
from paretune.spaces.metrics import find_metric

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FILE = "study.journal"


class StudyStorage:
    """Adds records to an Optuna study in ``study.journal``.

    Args:
        folder: of the run; must be locked by the caller.
        objectives: metric names.
    """

    def __init__(self, folder: Path, objectives: tuple[str, ...]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.objectives = objectives
        self.path = folder / FILE
        self._added: list[FrozenTrial] = []
        with self._writing():
            # Optuna would wait 30 seconds for a process that was killed; whoever has the run folder's lock is alone.
            self.path.with_name(f"{FILE}.lock").unlink(missing_ok=True)
            if self.path.exists():
                drop_torn_line(self.path)
            try:
                self._open()
            except (*WRONG_CONTENT, AssertionError):
                self.path.unlink()  # damaged: it is written anew
                self._open()

    def _open(self) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(self.path)))
        self.study: Study = optuna.create_study(
            study_name="paretune",
            storage=storage,
            load_if_exists=True,
            directions=[find_metric(metric).direction for metric in self.objectives],
        )
        trials = self.study.get_trials(deepcopy=False)
        self._known: dict[int | None, str] = {
            trial.user_attrs.get("index"): _identity(trial) for trial in trials
        }
        if len(self._known) != len(trials):
            raise ValueError("a record is there twice")

    def add(self, record: Record) -> None:
        """Add a record as a finished trial, unless the journal has it; one with other content is written anew."""
        trial = self._trial(record)
        self._added.append(trial)
        known = self._known.get(record.index)
        if known is None:
            self._write(trial)
        elif known != _identity(trial):
            self.path.unlink()
            self._open()
            for earlier in self._added:
                self._write(earlier)

    def _write(self, trial: FrozenTrial) -> None:
        with self._writing():
            self.study.add_trial(trial)
        self._known[trial.user_attrs["index"]] = _identity(trial)

    def _trial(self, record: Record) -> FrozenTrial:
        import optuna

        pruned = record.config.pruned
        attributes: dict[str, Any] = {
            "index": record.index,
            "digest": record.digest,
            "name": record.name,
            "sampler": record.sampler,
            "fidelity": record.fidelity.name,
            "pruned": pruned.name,
            "kv": record.config.kv.name,
        }
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL if record.broken else optuna.trial.TrialState.COMPLETE,
            values=None
            if record.broken
            else [value_of(record.measurements, metric) for metric in self.objectives],
            user_attrs=attributes,
            constraints=dict(record.violations) or None,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _identity(trial: FrozenTrial) -> str:
    """What a trial says, but for when it was written."""
    return repr((trial.state, trial.values, sorted(trial.user_attrs.items())))
