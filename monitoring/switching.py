"""Putting another rung in place of the one that is on: by moving a link, and by telling whoever restarts the server.

The link is moved first, in one step: whoever is told may restart a server on it at once. Where the webhook refuses, the
link goes back to the rung that was on, and the next check tries again.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.engines.manifest import read_manifest
from paretune.monitoring.addresses import is_server
from paretune.monitoring.errors import SwitchError
from paretune.monitoring.ladder import Ladder
from paretune.spaces.errors import ParetuneError

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S = 10.0


class Switcher:
    """Moves the link of a ladder.

    Args:
        ladder: with more than one rung.
        webhook: address that is told of every switch, as JSON by POST, once the link has moved.
        transport: of ``httpx``, for tests.

    Raises:
        SwitchError: the ladder has no link, there is something else in the link's place, or the webhook is no
            address.
    """

    def __init__(
        self, ladder: Ladder, webhook: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        if ladder.link is None:
            raise SwitchError(
                f"export {ladder.folder}", "is alone: there is nothing to switch to", "Name a ladder"
            )
        if ladder.link.exists() and not ladder.link.is_symlink():
            raise SwitchError(f"{ladder.link}", "is no link, and is not replaced", "Name another place")
        if webhook is not None and not is_server(webhook):
            raise SwitchError(
                f"webhook {webhook!r}", "is no address of a server", "Write http://127.0.0.1:8000/switch"
            )
        self._ladder, self._link, self._webhook, self._transport = ladder, ladder.link, webhook, transport

    def begin(self) -> None:
        """Let the link point to the first rung where there is no link yet."""
        if not self._link.is_symlink():
            self._point(0)

    def switch(self, start: int, to: int, reason: str) -> None:
        """Put rung ``to`` in the place of ``start``.

        Raises:
            SwitchError: the webhook refused, or the link cannot be moved.
        """
        if not self._ladder.place(to).is_dir():
            raise SwitchError(f"rung {self._ladder.place(to)}", "is not there", "Export the ladder again")
        if self._webhook is None:
            self._point(to)
            return
        event = self._event(start, to, reason)
        self._point(to)
        try:
            self._tell(self._webhook, event)
        except SwitchError as refusal:
            self._put_back(start, refusal)
            raise

    def _put_back(self, start: int, refusal: SwitchError) -> None:
        try:
            self._point(start)
        except SwitchError as error:
            raise SwitchError(
                refusal.value,
                f"{refusal.rule}, and {error.value} {error.rule}",
                f"Let the link point to {self._ladder.rungs[start].folder} by hand",
            ) from error

    def _event(self, start: int, to: int, reason: str) -> dict[str, Any]:
        rungs = self._ladder.rungs
        return {
            "event": "switch",
            "from": rungs[start].name,
            "to": rungs[to].name,
            "rung": to,
            "folder": str(self._ladder.place(to).resolve()),
            "launch": launch_line(self._ladder, to),
            "reason": reason,
        }

    def _tell(self, webhook: str, event: dict[str, Any]) -> None:
        import httpx

        try:
            with httpx.Client(timeout=_TIMEOUT_S, transport=self._transport, trust_env=False) as client:
                client.post(webhook, json=event).raise_for_status()
        except httpx.HTTPError as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise SwitchError(
                f"webhook {webhook}",
                f"did not take the switch ({said})",
                "The link points to the rung that was on again; see the webhook's log",
            ) from error

    def _point(self, to: int) -> None:
        place = self._ladder.place(to).resolve()
        parent = self._link.parent.resolve()
        partial = parent / f".{self._link.name}.{secrets.token_hex(4)}"
        try:
            partial.symlink_to(os.path.relpath(place, parent), target_is_directory=True)
            partial.replace(self._link)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise SwitchError(
                f"link {self._link}", f"cannot be moved ({error.strerror})", "Let the monitor write there"
            ) from error


def launch_line(ladder: Ladder, index: int) -> str:
    """The line that runs a rung where it lies now; loads no torch.

    The one in ``ladder.json`` names the folder as whoever exported it saw it; it is taken where the export does not say
    which engine it is for.
    """
    from paretune.engines import find_engine

    place = ladder.place(index).resolve()
    try:
        return find_engine(str(read_manifest(place)["engine"])).launch_line(place)
    except (
        ParetuneError,
        KeyError,
        ValueError,
    ):  # an engine of another version; a switch is made all the same
        return ladder.rungs[index].launch


def point_at(link: Path, folder: str) -> None:
    """A relative link to a folder beside it, where a ladder is being written."""
    link.symlink_to(folder, target_is_directory=True)
