"""Who may reach the monitor, and who may switch: localhost, and whoever has the token."""

from __future__ import annotations

import hmac
import ipaddress
import stat
from pathlib import Path

from paretune.monitoring.errors import MonitorError
from paretune.spaces.files import FileKind, read_text

TOKEN_CHARACTERS = 16
"""Fewest of a token that we ask for."""


def check_host(host: str, *, exposed: bool) -> None:
    """Refuse to listen to more than this machine.

    Args:
        host: address to bind to.
        exposed: whether the user said in so many words that others may reach it.

    Raises:
        MonitorError: the address is not of this machine alone.
    """
    if exposed or _is_local(host):
        return
    raise MonitorError(
        f"host {host}", "is reached from other machines", "Use 127.0.0.1, or say --expose if that is meant"
    )


def read_secret(file: Path, least_characters: int = 1) -> str:
    """The one word in a file that nobody else can read.

    Args:
        file: with a token or key.
        least_characters: of the word.

    Raises:
        MonitorError: there is no such file, others can read it, or the word is short or not printable ASCII.
    """
    secret = read_text(file, FileKind("secret file", MonitorError, "Name another", 1 << 16)).strip()
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise MonitorError(f"secret file {file}", "can be read by others", f"chmod 600 {file}")
    if len(secret) < least_characters or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise MonitorError(
            f"secret in {file}",
            f"must be one word of at least {least_characters} characters",
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return secret


def may_switch(token: str | None, header: str | None) -> bool:
    """Whether an ``Authorization`` header carries the token; never where there is none.

    The time it takes does not tell how much of a wrong token is right.
    """
    if token is None or header is None:
        return False
    kind, _, given = header.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
