"""A run in Python: what a search left, and what can be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.pipeline.progress import Progress, Stages, note
from paretune.pipeline.run_file import RunFile, validate_run
from paretune.reports.reading import read_run_folder
from paretune.spaces.errors import LimitError, UnknownNameError
from paretune.spaces.result import Member

if TYPE_CHECKING:
    import pandas as pd

    from paretune.pipeline.exporting import Exported
    from paretune.reports.compared import ComparedModel
    from paretune.search.storage import Study

CANARIES = 16
"""Of a rung where the user names no number."""


class Run:
    """A search that is complete or was interrupted, as its folder has it.

    Args:
        folder: that ``paretune search`` or :func:`paretune.search` wrote.

    Raises:
        RunError: no such folder, a file is missing, or is not what its schema says.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._found = read_run_folder(self.folder)

    def __repr__(self) -> str:
        members = sum(member.on_front for member in self.members)
        picked = self._found.front.recommended or "none"
        return (
            f"Run({str(self.folder)!r}: {self.status}, {members} members on the front, recommended: {picked})"
        )

    @property
    def status(self) -> Literal["running", "complete", "interrupted"]:
        """Of ``run.json``."""
        return self._found.run.status

    @property
    def settings(self) -> RunFile:
        """What was asked for, complete with defaults."""
        return validate_run(self._found.run.settings, f"{self.folder}/run.json")

    @property
    def members(self) -> tuple[Member, ...]:
        """The front first, best quality first; then baselines and probes."""
        return self._found.front.members

    @property
    def front(self) -> pd.DataFrame:
        """The members of the front by name; columns and units (B, s, J, nat, bit) are those of ``front.csv``."""
        table = self.table
        return table[table["on_front"]]

    @property
    def table(self) -> pd.DataFrame:
        """The whole of ``front.csv``: baselines and probes too."""
        import pandas as pd

        from paretune.reports.table import front_columns, front_rows

        front = self._found.front
        table = pd.DataFrame(front_rows(front), columns=list(front_columns(front))).set_index("name")
        return table.assign(**{column: table[column] == "true" for column in ("on_front", "recommended")})

    @property
    def study(self) -> Study:
        """Every scored candidate as a trial of Optuna with its parameters, for ``optuna.visualization``.

        Raises:
            RunError: ``study.journal`` is absent or damaged.
        """
        from paretune.search.storage import read_study

        return read_study(self.folder)

    def dashboard(self, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Serve optuna-dashboard over these trials until it is interrupted.

        Args:
            host: address to listen on.
            port: of it.

        Raises:
            RunError: as :attr:`study`; optuna-dashboard is not installed; the port cannot be had.
        """
        from paretune.search.storage import serve_dashboard

        note(f"optuna-dashboard of {self.folder} at http://{host}:{port}; Ctrl-C ends it")
        serve_dashboard(self.folder, host, port)

    @property
    def recommended(self) -> Member:
        """The recommended configuration.

        Raises:
            LimitError: nothing meets the limits on the search text.
        """
        return self.member(None)

    def member(self, name: str | None) -> Member:
        """The row called ``name``, or whose digest begins with it; the recommended one if ``None``.

        Raises:
            LimitError: none was named, and nothing meets the limits on the search text.
            UnknownNameError: there is no such member.
        """
        wanted = self._found.front.recommended if name is None else name
        if not wanted:
            raise unmet(self._found.front.limits)
        for member in self.members:
            if member.name == wanted or (len(wanted) >= 6 and member.digest.startswith(wanted)):
                return member
        raise UnknownNameError("member of the front", wanted, [member.name for member in self.members])

    def select(self, limits: Sequence[str] = (), metric: str = "") -> Member:
        """The best member under limits such as ``memory<=6GiB``.

        Args:
            limits: that it has to meet.
            metric: what to optimize; chosen as ``paretune select --help`` says if empty.

        Raises:
            LimitError: no member meets them; names the nearest.
            UnknownNameError: no such metric.
        """
        from paretune.reports.selection import refusal, select_member
        from paretune.spaces.limits import Limit

        found = select_member(self._found.front, tuple(Limit.parse(text) for text in limits), metric)
        if found.member is None:
            raise refusal(found)
        return found.member

    def export(
        self,
        name: str | None = None,
        *,
        out: str | Path | None = None,
        refine: Literal["gptq", "autoround", "qat"] | str | None = None,
        container: str | None = None,
        canaries: int | None = None,
        bundle: bool = False,
        progress: Progress = True,
    ) -> Exported:
        """Write a member for the run's engine, load it in a fresh process and compare it with the candidate.

        Args:
            name: of the member; the recommended one if left out.
            out: folder to write; ``RUN/export/NAME`` if left out.
            refine: make the weights again for this configuration.
            container: that ``transformers`` loads: compressed-tensors if left out, else bitsandbytes, gptq or awq.
            canaries: prefixes with reference answers for ``paretune monitor`` (count).
            bundle: write what a server needs as well, into ``out``, or ``RUN/bundle/NAME`` if left out.
            progress: see :data:`paretune.pipeline.progress.Progress`.

        Raises:
            EngineError: the engine cannot express the candidate, or the folder holds something else.
            VerificationError: what was loaded is not the candidate.
        """
        from paretune.pipeline.exporting import ExportRequest, export_from

        request = ExportRequest(None if out is None else Path(out), refine, container, canaries, bundle)
        return export_from(self, self.member(name), request, Stages(progress))

    def export_ladder(
        self,
        rungs: int,
        name: str | None = None,
        *,
        out: str | Path | None = None,
        container: str | None = None,
        canaries: int = CANARIES,
        progress: Progress = True,
    ) -> list[Exported]:
        """Export a member and safer ones to fall back to, for ``paretune monitor``; as :meth:`export`.

        Args:
            rungs: how many, the member among them.
            name: of the member; the recommended one if left out.
            out: folder to write; ``RUN/ladder`` if left out.
            container: as in :meth:`export`.
            canaries: of each rung (count).
            progress: as in :meth:`export`.

        Raises:
            RunError: the front has too few safer members.
        """
        from paretune.pipeline.exporting import ExportRequest
        from paretune.pipeline.ladder import export_ladder

        request = ExportRequest(None if out is None else Path(out), None, container, canaries)
        return export_ladder(self, self.member(name), rungs, request, Stages(progress))

    def compare(
        self, checkpoints: Sequence[str | Path], labels: Sequence[str] = (), *, progress: Progress = True
    ) -> tuple[ComparedModel, ...]:
        """Judge other checkpoints on the report text and tasks of this run, and draw them into its report.

        Args:
            checkpoints: model folders (quantized or not), hub ids or .gguf files.
            labels: what each is called; its own name if left out.
            progress: as in :meth:`export`.

        Raises:
            ModelError: something that is no checkpoint, or has other tokens.
            RunError: model or report text are not those of the run any more.
        """
        from paretune.pipeline.comparing import compare_checkpoints

        return compare_checkpoints(self, [str(one) for one in checkpoints], labels, Stages(progress))

    def recipe(self, tool: str, name: str | None = None, *, weights_only: bool = False) -> str:
        """The formats of a member as a file that another tool reads, as text.

        Args:
            tool: llm-compressor, modelopt, gptqmodel, auto-round or torchao.
            name: of the member; the recommended one if left out.
            weights_only: leave the format of the cache to whoever starts the server.

        Raises:
            UnknownNameError: no such tool or member.
            EngineError: the tool has no words for the configuration.
        """
        from paretune.pipeline.recipes import recipe_of

        return recipe_of(self, tool, name, weights_only=weights_only).text

    def report(self) -> Path:
        """Write ``front.csv`` and ``report.html`` anew; the path of the page."""
        from paretune.reports.report import write_report

        return write_report(self.folder)

    def document(self) -> dict[str, Any]:
        """As JSON: status, settings, the recommended configuration, the export, and the rows of ``front.csv``."""
        from paretune.reports.table import front_rows

        run, front = self._found.run, self._found.front
        return {
            "folder": str(self.folder), "status": run.status, "recommended": front.recommended,
            "reason": front.recommended_reason, "limits": list(front.limits), "objectives": list(front.objectives),
            "export": run.export, "spent": run.spent, "evaluations": run.evaluations, "notes": list(run.notes),
            "rows": [
                {**row, **{column: row[column] == "true" for column in ("on_front", "recommended")}}
                for row in front_rows(front)
            ],
        }  # fmt: skip

    def summary(self) -> str:
        """One screen of text: what was found, what it is worth, what fell short, what to do next."""
        from paretune.reports.summary import summarize

        return summarize(self.folder)


def unmet(limits: Sequence[str]) -> LimitError:
    """That there is no recommended configuration."""
    if not limits:
        return LimitError(
            "the search",
            "read nothing that could be taken, so there is no recommended configuration",
            "Search on in the same folder with more --minutes or --max-evaluations",
        )
    return LimitError(
        f"limits {', '.join(limits)}",
        "were met by nothing on the search text, so there is no recommended configuration",
        "See the nearest by paretune select RUN --limit ..., and name one by paretune export RUN --name NAME",
    )
