"""The service: checks in a loop, and a few addresses that tell of them.

``/metrics`` for Prometheus, ``/health`` for whoever restarts the monitor, ``/status`` for people; POST ``/check`` and
POST ``/switch`` want the token. Without a token nothing can be asked of it, and the loop still does its work.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, ConfigDict

from paretune.monitoring.access import may_switch
from paretune.monitoring.metrics import CONTENT_TYPE, Metrics, outcome_name
from paretune.monitoring.watch import Outcome, Watch
from paretune.spaces.errors import ParetuneError

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

_LOG = logging.getLogger(__name__)

_SILENT: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""Variables of the environment would have FastAPI tell others of every request."""


class Wanted(BaseModel):
    """Body of ``/switch``; the next rung where it names none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rung: int | str | None = None


class Monitor:
    """The loop of checks.

    Args:
        watch: that checks.
        interval_s: between the end of a check and the beginning of the next.
    """

    def __init__(self, watch: Watch, interval_s: float) -> None:
        self.watch, self.interval_s = watch, interval_s
        self.metrics = Metrics(watch)
        self.refusal = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether checks go on."""
        return self._task is not None and not self._task.done()

    async def check(self) -> Outcome:
        """One check, in a thread of its own.

        What is raised stands in ``/health`` and ``/status`` until a check is made.

        Raises:
            ParetuneError: it is not known what should be served.
        """
        try:
            found = await asyncio.to_thread(self.watch.check)
            self.metrics.add(found)
        except ParetuneError as error:
            self.refusal = str(error)
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if said != self.refusal:
                _LOG.exception("a check failed; the next one is made all the same")
            self.refusal = said
            raise
        self.refusal = ""
        return found

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Check as long as the application runs."""
        del app
        self._task = asyncio.create_task(self._loop())
        try:
            yield
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _loop(self) -> None:
        while True:
            # The link may be mended before the next check, and so may a disk: nothing ends the watch but its owner.
            with suppress(Exception):
                await self.check()
            await asyncio.sleep(self.interval_s)

    def status(self) -> dict[str, Any]:
        """For people: the ladder, the limits, the last check."""
        # Bound once: the thread that checks puts others in their place when it switches.
        watch, last, streaks = self.watch, self.watch.last, self.watch.streaks
        return {
            "rung": watch.rung,
            "rungs": [rung.model_dump(mode="json") for rung in watch.ladder.rungs],
            "endpoint": watch.endpoint.url,
            "limits": [
                {**limit.model_dump(mode="json"), "broken_in_a_row": streaks.count(limit)}
                for limit in streaks.limits
            ],
            "switches": watch.switches,
            "failed_switches": watch.failed_switches,
            "can_switch": watch.can_switch,
            "settling": watch.settling,
            "refusal": self.refusal,
            "last": None if last is None else told(last),
        }


def told(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON, which knows no infinity: a drift without bounds is ``null`` and ``outcome`` broken."""
    values = outcome.reading.values()
    return {
        "outcome": outcome_name(outcome),
        "rung": outcome.rung,
        **{name: value if value is None or math.isfinite(value) else None for name, value in values.items()},
        "broken": [limit.metric for limit in outcome.broken],
        "switched_to": outcome.switched_to,
        "note": outcome.note,
        "unix_s": outcome.unix_s,
    }


def create_app(monitor: Monitor, token: str | None) -> FastAPI:
    """The application.

    Args:
        monitor: whose checks are told; they run while the application does.
        token: of whoever may check and switch; ``None``: nobody.
    """
    # No pages that describe it: they would load scripts from elsewhere.
    app = FastAPI(title="paretune monitor", lifespan=monitor.running, openapi_url=None, telemetry=_SILENT)
    _add_views(app, monitor)
    _add_actions(app, monitor, token)
    return app


def _add_views(app: FastAPI, monitor: Monitor) -> None:
    @app.get("/metrics")
    def metrics() -> Response:
        return Response(monitor.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/health")
    def health(response: Response) -> dict[str, Any]:
        last = monitor.watch.last
        response.status_code = 200 if monitor.alive and not monitor.refusal else 503
        return {
            "checking": monitor.alive,
            "refusal": monitor.refusal,
            "endpoint": "not asked yet" if last is None else outcome_name(last),
        }

    @app.get("/status")
    def status() -> dict[str, Any]:
        return monitor.status()


def _add_actions(app: FastAPI, monitor: Monitor, token: str | None) -> None:
    def allowed(authorization: Annotated[str | None, Header()] = None) -> None:
        if token is None:
            raise HTTPException(403, "this monitor was started without a token: nothing is done by request")
        if not may_switch(token, authorization):
            raise HTTPException(401, "a token is wanted", {"WWW-Authenticate": "Bearer"})

    @app.post("/check", dependencies=[Depends(allowed)])
    async def check() -> dict[str, Any]:
        try:
            return told(await monitor.check())
        except ParetuneError as error:
            raise HTTPException(409, str(error)) from error

    @app.post("/switch", dependencies=[Depends(allowed)])
    def switch(wanted: Wanted | None = None) -> dict[str, Any]:
        rung = None if wanted is None else wanted.rung
        try:
            to = monitor.watch.switch(rung, "by request")
        except ParetuneError as error:
            raise HTTPException(409, str(error)) from error
        return {"rung": to, "name": monitor.watch.ladder.rungs[to].name}
