"""Optuna's storage of a run: one finished trial a candidate, for dashboards and for Optuna's own tools.

The journal is a copy for readers; ``records.jsonl`` is the truth. A trial holds every parameter of the space by the
name of its choice, the objectives, the named constraints, and what a record is known by; the dense model has parameters
where it is a point of the space.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.search.scoring import value_of
from paretune.spaces.errors import ConfigurationError, RunError
from paretune.spaces.files import WRONG_CONTENT, cannot_write, drop_torn_line
from paretune.spaces.measurement import Record
from paretune.spaces.metrics import find_metric
from paretune.spaces.space import SearchSpace

if TYPE_CHECKING:
    from optuna import Study as Study  # noqa: PLC0414 -- for readers of runs, who may not import optuna
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

FILE = "study.journal"
NAME = "paretune"


def open_journal(path: Path) -> JournalStorage:
    """Optuna's storage in a file; whatever is wrong with one shows when something is read of it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        return JournalStorage(JournalFileBackend(str(path)))


def read_study(folder: Path) -> Study:
    """The study of a run folder.

    Raises:
        RunError: there is none, or it is damaged.
    """
    import optuna

    path = folder / FILE
    if not path.is_file():
        raise RunError(f"{path}", "is no file", "Name a run folder; `paretune search` writes it")
    try:
        return optuna.load_study(study_name=NAME, storage=open_journal(path))
    except (*WRONG_CONTENT, AssertionError) as error:
        raise RunError(f"{path}", "is damaged", "Search on in that folder: it is written anew") from error


def serve_dashboard(folder: Path, host: str, port: int) -> None:
    """Serve optuna-dashboard over a run folder until it is interrupted.

    Raises:
        RunError: as :func:`read_study`; optuna-dashboard is not installed; the port cannot be had.
    """
    read_study(folder)
    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        remedy = "pip install 'paretune[dashboard]'"
        raise RunError("optuna-dashboard", "is not installed", remedy) from error
    try:
        run_server(open_journal(folder / FILE), host=host, port=port)
    except OSError as error:
        raise RunError(
            f"{host}:{port}", f"cannot be had ({error.strerror})", "Name another --port"
        ) from error


class StudyStorage:
    """Adds records to an Optuna study in ``study.journal``.

    Args:
        folder: of the run; must be locked by the caller.
        objectives: metric names.
        space: that is searched.
    """

    def __init__(self, folder: Path, objectives: tuple[str, ...], space: SearchSpace) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.objectives = objectives
        self.space = space
        self._distributions = {
            parameter.name: optuna.distributions.CategoricalDistribution(parameter.names)
            for parameter in space.parameters
        }
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

        self.study: Study = optuna.create_study(
            study_name=NAME,
            storage=open_journal(self.path),
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

        names: dict[str, str] = {}
        with suppress(ConfigurationError):  # the dense model need not be a point of the space
            point = self.space.encode(record.config)
            names = {p.name: p.names[k] for p, k in zip(self.space.parameters, point, strict=True)}
        attributes: dict[str, Any] = {
            "index": record.index,
            "digest": record.digest,
            "name": record.name,
            "sampler": record.sampler,
            "fidelity": record.fidelity.name,
        }
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL if record.broken else optuna.trial.TrialState.COMPLETE,
            values=None
            if record.broken
            else [value_of(record.measurements, metric) for metric in self.objectives],
            params=names,
            distributions={name: self._distributions[name] for name in names},
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
