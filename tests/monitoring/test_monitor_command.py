"""``paretune monitor``: what its options mean, together and alone."""

from __future__ import annotations

import httpx
import pytest

pytest.importorskip("fastapi", reason="the monitor needs the extra 'monitor'")

from paretune.commands.main import main
from paretune.monitoring.endpoint import Endpoint
from tests.monitoring.fakes import FakeServer, write_export, write_ladder

URL = "http://127.0.0.1:1"


@pytest.fixture
def server(monkeypatch):
    """What every endpoint of the command reaches."""
    found, make = FakeServer(), Endpoint.__init__

    def init(self, url, **more):
        make(self, url, **{**more, "transport": httpx.MockTransport(found)})

    monkeypatch.setattr(Endpoint, "__init__", init)
    return found


@pytest.fixture
def ladder(tmp_path):
    return write_ladder(tmp_path / "ladder")


def monitor(folder, *options):
    return main(["monitor", str(folder), "--endpoint", URL, *options])


def test_one_check_says_healthy_or_broken(ladder, server, capsys):
    assert monitor(ladder, "--once") == 0
    assert "healthy" in capsys.readouterr().out
    server.shift = 50
    assert monitor(ladder, "--once") == 1
    assert "broken: drift_nats above" in capsys.readouterr().out


def test_nobody_answers_and_that_is_a_limit_only_where_it_was_asked_for(ladder, server, capsys):
    server.down = True
    assert monitor(ladder, "--once") == 2
    assert "cannot be asked" in capsys.readouterr().err
    assert monitor(ladder, "--once", "--limit", "unanswered<=0") == 1
    printed = capsys.readouterr().out
    assert printed.startswith("small: no answer; broken: unanswered above 0; endpoint")


def test_damaged_files_are_told_where_nobody_answers(ladder, server, capsys):
    server.down = True
    (ladder / "0-small" / "model.bin").write_bytes(b"damaged")
    assert monitor(ladder, "--once") == 1
    printed = capsys.readouterr().out
    assert "broken: altered_files above 0" in printed
    assert "model.bin" in printed
    assert "cannot be asked" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--limit", "memory<=1GB"), "Name the server's by --pid"),
        (("--limit", "drift<=-1"), "upper bound of 0 or more"),
        (("--limit", "latency>=1s"), "upper bound"),
        (("--limit", "latency<=1GiB"), "measured in s"),
        (("--limit", "speed<=1"), "drift"),
        (("--interval", "60"), "a number with a unit"),
        (("--pid", "no/such/file"), "neither an id nor a file"),
    ],
)
def test_options_that_would_mean_nothing_are_refused(ladder, server, capsys, options, said):
    (ladder / "current").unlink()
    assert monitor(ladder, "--once", *options) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "rule:" in printed
    assert not server.requests


@pytest.mark.parametrize("option", ["--once", "--no-switch"])
def test_a_link_says_nothing_of_an_export_alone(tmp_path, server, capsys, option):
    export = write_export(tmp_path / "export", "one")
    assert monitor(export, "--symlink", str(tmp_path / "link"), option) == 2
    assert "--symlink" in capsys.readouterr().err
    assert not server.requests


@pytest.mark.parametrize(
    "address", ["http://h:abc", "http://h:99999", "http://[::1", "http://", "h:80", "ftp://h"]
)
def test_an_endpoint_that_is_no_address_is_refused(ladder, capsys, address):
    assert main(["monitor", str(ladder), "--endpoint", address, "--once"]) == 2
    assert "is no address of a server" in capsys.readouterr().err
