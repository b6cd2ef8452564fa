"""The service: who may do what, and what it tells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from paretune.monitoring.access import check_host, may_switch, read_secret
from paretune.monitoring.errors import MonitorError
from paretune.monitoring.ladder import read_ladder
from paretune.monitoring.limits import Limit, Streaks
from paretune.monitoring.listening import listen, web_server
from paretune.monitoring.memory import read_process, resident_bytes
from paretune.monitoring.switching import Switcher
from paretune.monitoring.watch import Watch
from tests.monitoring.fakes import FakeServer, write_ladder

pytest.importorskip("fastapi", reason="the monitor needs the extra 'monitor'")
TOKEN = "a-token-of-many-characters"  # noqa: S105 -- of no service
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def serve(tmp_path, server):
    """``serve(token)``: a client of a monitor whose loop checks once and then waits."""
    from paretune.monitoring.service import Monitor, create_app

    with ExitStack() as stack:

        def make(token=TOKEN):
            ladder = read_ladder(write_ladder(tmp_path / "ladder"))
            watch = Watch(ladder, server.endpoint(), Switcher(ladder), pid=os.getpid(), in_a_row=2)
            client = stack.enter_context(running(create_app(Monitor(watch, 3600.0), token)))
            wait_for(lambda: 'paretune_checks_total{outcome="healthy"} 1.0' in client.get("/metrics").text)
            return client

        yield make


@contextmanager
def running(app):
    """The application behind its real web server, in a thread."""
    web, listening = web_server(app), listen("127.0.0.1", 0)
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_for(lambda: web.started)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", trust_env=False
        ) as client:
            yield client
    finally:
        web.should_exit = True
        thread.join(20)
        listening.close()


def wait_for(ready):
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bearer(token=TOKEN):
    return {"Authorization": f"Bearer {token}"}


def sample(text, name):
    (found,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE)
    return float(found)


def test_prometheus_is_told_drift_latency_memory_and_the_rung(serve, server):
    client = serve()
    text = client.get("/metrics").text
    assert sample(text, "paretune_drift_nats") == pytest.approx(0.0, abs=1e-9)
    assert sample(text, "paretune_latency_seconds") > 0
    assert sample(text, "paretune_server_memory_bytes") > 1e6
    assert sample(text, "paretune_rung") == 0
    assert sample(text, 'paretune_checks_total{outcome="healthy"}') == 1
    server.shift = 50
    for _ in range(2):
        client.post("/check", headers=bearer())
    text = client.get("/metrics").text
    assert sample(text, "paretune_rung") == 1
    assert sample(text, 'paretune_switches_total{outcome="made"}') == 1
    assert sample(text, 'paretune_checks_total{outcome="broken"}') == 2
    assert sample(text, "paretune_drift_nats") > 0.5
    assert sample(text, 'paretune_member_info{name="middle"}') == 1
    server.down = True
    client.post("/check", headers=bearer())
    assert "paretune_drift_nats NaN" in client.get("/metrics").text


@pytest.mark.parametrize(
    "headers",
    [
        {}, bearer("wrong"), bearer(TOKEN[:-1]), bearer(TOKEN + "x"), {"Authorization": "Bearer"},
        {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/switch", "/check"])
def test_nothing_is_done_without_the_token(serve, server, headers, path):
    client = serve()
    asked = len(server.requests)
    found = client.post(path, headers=headers)
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"
    assert len(server.requests) == asked
    assert client.get("/status").json()["rung"] == 0


def test_a_monitor_without_a_token_does_nothing_by_request(serve):
    client = serve(token=None)
    for headers in ({}, bearer(), bearer("None")):
        assert client.post("/switch", headers=headers).status_code == 403
        assert client.post("/check", headers=headers).status_code == 403
    assert client.get("/health").status_code == 200


def test_a_rung_is_switched_by_whoever_has_the_token(serve):
    client = serve()
    assert client.post("/switch", headers=bearer()).json() == {"rung": 1, "name": "middle"}
    assert client.post("/switch", json={"rung": "safe"}, headers=bearer()).json()["rung"] == 2
    assert client.post("/switch", headers=bearer()).status_code == 409
    assert client.post("/switch", json={"rung": 0}, headers=bearer()).json()["name"] == "small"
    assert client.post("/switch", json={"rung": "nobody"}, headers=bearer()).status_code == 409
    assert client.post("/switch", json={"rungs": 1}, headers=bearer()).status_code == 422
    assert client.get("/status").json()["switches"] == 3


def test_status_and_health_are_json_whatever_the_server_answers(serve, server, tmp_path):
    client = serve()
    server.body = "garbage"
    found = client.post("/check", headers=bearer()).json()
    assert (found["outcome"], found["drift_nats"]) == ("broken", None)
    status = client.get("/status").json()
    assert status["last"] == found
    assert status["limits"][0]["broken_in_a_row"] == 1
    assert client.get("/health").json() == {"checking": True, "refusal": "", "endpoint": "broken"}
    (tmp_path / "ladder" / "current").unlink()
    assert client.post("/check", headers=bearer()).status_code == 409
    assert client.get("/health").status_code == 503
    assert "cannot be read" in client.get("/status").json()["refusal"]


def test_the_watch_goes_on_after_what_nobody_foresaw(tmp_path, server, monkeypatch, caplog):
    from paretune.monitoring.service import Monitor, create_app

    ladder = read_ladder(write_ladder(tmp_path / "ladder"))
    watch = Watch(ladder, server.endpoint())
    with running(create_app(Monitor(watch, 0.02), None)) as client:
        wait_for(lambda: client.get("/health").status_code == 200)

        def fail():
            raise RuntimeError("the disk is gone")

        with monkeypatch.context() as patched:
            patched.setattr(watch, "check", fail)
            wait_for(lambda: client.get("/health").status_code == 503)
            found = client.get("/health").json()
            assert found["checking"]
            assert (
                found["refusal"]
                == client.get("/status").json()["refusal"]
                == "RuntimeError: the disk is gone"
            )
            time.sleep(0.2)
        wait_for(lambda: client.get("/health").status_code == 200)
    told = [record for record in caplog.records if record.name == "paretune.monitoring.service"]
    assert len(told) == 1
    assert told[0].exc_info is not None


class Turning:
    """A watch whose thread switches between any two looks at it."""

    switches, failed_switches, settling = 1, 0, False

    def __init__(self, ladder):
        self.ladder, self._looks = ladder, 0
        self.endpoint, self.last, self.can_switch = FakeServer().endpoint(), None, True

    @property
    def rung(self):
        self._looks += 1
        return self._looks % 2

    @property
    def streaks(self):
        self._looks += 1
        return Streaks([Limit(metric="drift_nats", limit=float(self._looks))])


def test_what_is_told_during_a_switch_is_of_one_rung(tmp_path):
    from paretune.monitoring.metrics import Metrics
    from paretune.monitoring.service import Monitor

    watch = Turning(read_ladder(write_ladder(tmp_path / "ladder")))
    assert sample(Metrics(watch).text().decode(), 'paretune_broken_in_a_row{metric="drift_nats"}') == 0
    assert Monitor(watch, 1.0).status()["limits"][0]["broken_in_a_row"] == 0


def test_two_scrapes_count_a_switch_once(tmp_path):
    from paretune.monitoring.metrics import Metrics

    class Slow(dict):
        def __getitem__(self, name):
            found = super().__getitem__(name)
            time.sleep(0.1)
            return found

    metrics = Metrics(Turning(read_ladder(write_ladder(tmp_path / "ladder"))))
    metrics._told = Slow(metrics._told)
    threads = [threading.Thread(target=metrics.text) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sample(metrics.text().decode(), 'paretune_switches_total{outcome="made"}') == 1


def test_no_page_describes_the_service(serve):
    client = serve()
    for path in ("/docs", "/redoc", "/openapi.json", "/"):
        assert client.get(path).status_code == 404
    assert client.get("/switch").status_code == 405


def test_nobody_else_is_told_whatever_the_environment_says(serve, monkeypatch, caplog):
    # An exporter that is no HTTP address makes FastAPI complain, if it looks at all.
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")
    assert serve().get("/health").json()["checking"]
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("fastapi")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", "", "127.0.0.1.example.org"])  # noqa: S104
def test_only_this_machine_is_listened_to(host):
    with pytest.raises(MonitorError, match="other machines"):
        check_host(host, exposed=False)
    check_host(host, exposed=True)


def test_localhost_is_localhost():
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"):
        check_host(host, exposed=False)


def test_an_address_in_use_is_refused():
    with listen("127.0.0.1", 0) as taken, pytest.raises(MonitorError, match="cannot be listened on"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_brackets_around_a_number_are_no_part_of_it(host):
    try:
        listening = listen(host, 0)
    except MonitorError as error:
        if "Cannot assign" in str(error) or "not supported" in str(error):
            pytest.skip("this machine has no IPv6")
        raise
    with listening:
        assert listening.getsockname()[0] == "::1"


def test_a_token_is_long_and_nobody_elses(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    assert read_secret(file, 16) == TOKEN
    file.chmod(0o640)
    with pytest.raises(MonitorError, match="read by others"):
        read_secret(file, 16)
    for wrong in ("short", "two words of many characters", "", "é" * 20):
        file.write_text(wrong)
        file.chmod(0o600)
        with pytest.raises(MonitorError):
            read_secret(file, 16)
    with pytest.raises(MonitorError, match="cannot be read"):
        read_secret(tmp_path / "none")


def test_a_header_is_compared_as_a_whole():
    assert may_switch(TOKEN, f"Bearer {TOKEN}")
    assert may_switch(TOKEN, f"bearer {TOKEN}")
    for header in (None, "", "Bearer", "Bearer ", f"Bearer {TOKEN} {TOKEN}", "Bearer é"):
        assert not may_switch(TOKEN, header)
    assert not may_switch(None, "Bearer None")
    assert not may_switch(None, None)


def test_memory_is_read_of_a_process_by_its_id_or_a_file(tmp_path):
    file = tmp_path / "server.pid"
    file.write_text(f"{os.getpid()}\n")
    assert resident_bytes(os.getpid()) > 1e6
    assert resident_bytes(file) > 1e6
    assert read_process(str(file)) == file
    file.write_text("")
    assert resident_bytes(file) is None
    with pytest.raises(MonitorError, match="does not run"):
        read_process("999999999")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
        lambda file: (file.unlink(), file.symlink_to(file.name)),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text("the server"),
        lambda file: file.write_text("9" * 5000),
    ],
)
def test_a_process_file_that_cannot_be_read_is_refused_first_and_unknown_later(tmp_path, spoil):
    file = tmp_path / "server.pid"
    file.write_text(str(os.getpid()))
    process = read_process(str(file))
    spoil(file)
    assert resident_bytes(process) is None
    with pytest.raises(MonitorError, match="neither an id nor a file"):
        read_process(str(file))


@pytest.mark.parametrize("given", ["9" * 5000, "", "\0", "x" * 5000])
def test_a_process_that_makes_no_sense_is_refused(given):
    with pytest.raises(MonitorError, match="neither an id nor a file"):
        read_process(given)


def test_importing_the_package_and_the_commands_loads_nothing_heavy():
    program = (
        "import sys\n"
        "from paretune import engines\n"
        "import paretune.monitoring\n"
        "import paretune.commands.main\n"
        "import paretune.monitoring.watch\n"
        "import paretune.monitoring.switching\n"
        "for name in engines.engine_names(): engines.find_engine(name)\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'httpx', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
