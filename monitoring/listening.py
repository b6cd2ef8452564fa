"""The socket that the service listens on, taken before anything is started: an address in use is refused at once."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from paretune.monitoring.errors import MonitorError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: to bind to; brackets around a number of IPv6 are dropped.
        port: 0 takes any that is free.

    Raises:
        MonitorError: the address is taken, or is none of this machine's.
    """
    name = host.strip("[]")
    try:
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((name, port), family=family)
    except OSError as error:
        raise MonitorError(
            f"address {host}:{port}", f"cannot be listened on ({error})", "Use another port"
        ) from error


def web_server(app: FastAPI) -> uvicorn.Server:
    """What answers requests and says nothing but errors: ``.run(sockets=[listening])``."""
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
