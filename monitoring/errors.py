"""Refusals of the monitor."""

from __future__ import annotations

from paretune.spaces.errors import ParetuneError


class MonitorError(ParetuneError):
    """A ladder, token, address or process that the monitor cannot work with."""


class EndpointError(MonitorError):
    """An endpoint that cannot be reached, or refuses what it is asked: nothing is known of its model."""


class SwitchError(MonitorError):
    """A switch that was not made: the rung that was on stays on."""
