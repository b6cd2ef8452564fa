"""From broken checks to another rung."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest

from paretune.engines import engine_names, find_engine
from paretune.engines.canary import CANARIES
from paretune.engines.manifest import MANIFEST
from paretune.engines.verification import LEAST_TOLERANCE, RELATIVE_TOLERANCE
from paretune.monitoring.errors import MonitorError, SwitchError
from paretune.monitoring.files import FileGuard
from paretune.monitoring.ladder import LADDER, default_trigger, read_ladder
from paretune.monitoring.switching import Switcher
from paretune.monitoring.watch import Watch
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import RunError, VerificationError
from paretune.spaces.schema import sealed, unsealed
from tests.monitoring.fakes import FakeServer, write_export, write_ladder


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def ladder(tmp_path):
    return write_ladder(tmp_path / "ladder")


def watch(folder, server, *, link=None, webhook=None, transport=None, **more):
    found = read_ladder(folder, link)
    switcher = None if found.link is None else Switcher(found, webhook, transport)
    if switcher is not None:
        switcher.begin()
    return Watch(found, server.endpoint(), switcher, **more)


def on(folder, link="current"):
    return (folder / link).readlink().name


def test_drift_that_stays_is_answered_by_the_next_rung_after_three_checks(ladder):
    server = FakeServer()
    watched = watch(ladder, server)
    assert not watched.check().broken
    server.shift = 50
    outcomes = [watched.check() for _ in range(3)]
    assert [bool(outcome.broken) for outcome in outcomes] == [True] * 3
    assert [outcome.switched_to for outcome in outcomes] == [None, None, 1]
    assert "drift_nats" in outcomes[-1].note
    assert on(ladder) == "1-middle"
    assert (watched.rung, watched.switches, watched.failed_switches) == (1, 1, 0)


def test_a_restart_that_takes_a_while_does_not_run_down_the_ladder(ladder):
    server, clock = FakeServer(), Clock()
    watched = watch(ladder, server, settle_s=100.0, clock=clock, in_a_row=1)
    server.shift = 50
    assert watched.check().switched_to == 1
    for _ in range(5):
        outcome = watched.check()
        assert outcome.broken
        assert outcome.switched_to is None
    assert watched.settling
    server.shift = 100
    assert not watched.check().broken
    assert not watched.settling
    server.shift = 50
    assert watched.check().switched_to == 2
    clock.now = 101.0
    assert watched.check().switched_to is None
    assert "last rung" in watched.last.note
    assert on(ladder) == "2-safe"


def test_settling_ends_with_its_time(ladder):
    server, clock = FakeServer(), Clock()
    watched = watch(ladder, server, settle_s=100.0, clock=clock, in_a_row=1)
    server.shift = 50
    assert watched.check().switched_to == 1
    clock.now = 101.0
    assert watched.check().switched_to == 2


def test_a_server_that_is_down_is_no_drift_unless_that_is_asked_for(ladder):
    server = FakeServer()
    server.down = True
    watched = watch(ladder, server)
    for _ in range(5):
        outcome = watched.check()
        assert (outcome.reading.unanswered, outcome.broken, outcome.switched_to) == (1, (), None)
    assert on(ladder) == "0-small"
    strict = watch(ladder, server, limits={"unanswered": 0.0}, in_a_row=2)
    assert [strict.check().switched_to for _ in range(2)] == [None, 1]


def test_limits_of_the_user_take_the_place_of_the_rungs_own(ladder):
    server = FakeServer()
    server.shift = 50
    loose = watch(ladder, server, limits={"drift_nats": 1e3})
    assert not loose.check().broken
    slow = watch(ladder, FakeServer(), limits={"latency_s": 0.0}, in_a_row=2)
    assert [slow.check().switched_to for _ in range(2)] == [None, 1]


def test_a_limit_of_the_user_is_broken_as_often_as_the_rung_says(ladder):
    values = unsealed(json.loads((ladder / LADDER).read_text()))
    values["rungs"][0]["trigger"]["in_a_row"] = 5
    (ladder / LADDER).write_text(json.dumps(sealed(values)))
    asked = {"drift_nats": 0.1, "latency_s": 9.0}
    watched = watch(ladder, FakeServer(), limits=asked, files=FileGuard())
    assert {limit.metric: (limit.limit, limit.in_a_row) for limit in watched.limits_of(0)} == {
        "altered_files": (0.0, 5), "drift_nats": (0.1, 5), "latency_s": (9.0, 5),
    }  # fmt: skip
    assert {limit.in_a_row for limit in watched.limits_of(1)} == {3}
    once = watch(ladder, FakeServer(), limits=asked, in_a_row=1)
    assert {limit.in_a_row for limit in once.limits_of(0)} == {1}


def test_a_link_that_somebody_moves_is_followed(ladder):
    server, clock = FakeServer(), Clock()
    watched = watch(ladder, server, clock=clock, settle_s=10.0)
    server.shift = 50
    watched.check()
    (ladder / "current").unlink()
    (ladder / "current").symlink_to("2-safe")
    server.shift = 200
    outcome = watched.check()
    assert (outcome.rung, outcome.broken) == (2, ())
    (ladder / "current").unlink()
    (ladder / "current").symlink_to("..")
    with pytest.raises(MonitorError, match="no rung"):
        watched.check()


def test_damaged_files_are_caught_where_no_canary_feels_them(ladder):
    watched = watch(ladder, FakeServer(), files=FileGuard())
    assert watched.check().reading.altered_files == 0
    (ladder / "0-small" / "model.bin").write_bytes(b"smalk")
    outcomes = [watched.check() for _ in range(3)]
    assert [outcome.reading.altered_files for outcome in outcomes] == [1, 1, 1]
    assert "model.bin" in outcomes[0].note
    assert outcomes[0].reading.drift_nats < 1e-9
    assert outcomes[-1].switched_to == 1


def test_a_damaged_rung_is_passed_over(ladder):
    server = FakeServer()
    watched = watch(ladder, server, files=FileGuard(), in_a_row=1)
    (ladder / "1-middle" / "model.bin").unlink()
    with pytest.raises(SwitchError, match="damaged"):
        watched.switch(1, "by hand")
    server.shift = 50
    assert watched.check().switched_to == 2
    assert watched.failed_switches == 1


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    export, read = write_export(tmp_path / "export", "one"), []
    from paretune.monitoring import files

    kept = files.sha256_of_file
    monkeypatch.setattr(
        files, "sha256_of_file", lambda file, *kind: read.append(file.name) or kept(file, *kind)
    )
    guard = FileGuard()
    for _ in range(3):
        assert guard.altered(export) == ()
    assert sorted(read) == [CANARIES, "model.bin"]
    (export / "model.bin").write_bytes(b"another")
    assert guard.altered(export) == ("model.bin",)
    assert read[2:] == ["model.bin"]


# -- switching ---------------------------------------------------------------------------------------------------


def test_a_webhook_is_told_when_the_link_has_moved(ladder):
    told = []

    def hook(request):
        told.append((json.loads(request.content), on(ladder)))
        return httpx.Response(204)

    watched = watch(
        ladder, FakeServer(), webhook="http://supervisor/switch", transport=httpx.MockTransport(hook)
    )
    assert watched.switch(None, "by hand") == 1
    ((event, during),) = told
    assert during == on(ladder) == "1-middle"
    assert event == {
        "event": "switch", "from": "small", "to": "middle", "rung": 1, "folder": str(ladder / "1-middle"),
        "launch": "serve middle", "reason": "by hand",
    }  # fmt: skip


@pytest.mark.parametrize("name", engine_names())
def test_a_webhook_is_told_places_of_the_monitors_machine(ladder, monkeypatch, name):
    manifest = unsealed(json.loads((ladder / "1-middle" / MANIFEST).read_text()))
    config = CompressionConfig()
    of_engine = {"engine": name, "digest": config.digest, "config": config.model_dump(mode="json")}
    (ladder / "1-middle" / MANIFEST).write_text(json.dumps(sealed({**manifest, **of_engine})))
    (ladder / "1-middle" / "config.json").write_text("{}")
    told = []
    hook = httpx.MockTransport(
        lambda request: told.append(json.loads(request.content)) or httpx.Response(204)
    )
    monkeypatch.chdir(ladder.parent)
    watched = watch(Path(ladder.name), FakeServer(), webhook="http://supervisor", transport=hook)
    watched.switch(1, "by hand")
    place = str(ladder / "1-middle")
    assert told[0]["folder"] == place
    assert place in told[0]["launch"]
    assert told[0]["launch"] == find_engine(name).launch_line(ladder / "1-middle")


def test_a_webhook_that_fails_puts_the_rung_back_and_is_tried_again(ladder):
    told, statuses = [], iter((500, 200))

    def hook(request):
        told.append(on(ladder))
        return httpx.Response(next(statuses))

    server = FakeServer()
    server.shift = 50
    watched = watch(
        ladder, server, webhook="http://supervisor", transport=httpx.MockTransport(hook), in_a_row=1
    )
    first = watched.check()
    assert on(ladder) == "0-small"
    second = watched.check()
    assert (first.switched_to, second.switched_to) == (None, 1)
    assert "did not take" in first.note
    assert "was on again" in first.note
    assert told == ["1-middle", "1-middle"]
    assert (watched.switches, watched.failed_switches) == (1, 1)


def test_a_link_that_cannot_go_back_is_said(ladder, monkeypatch):
    def hook(request):
        monkeypatch.setattr(Path, "symlink_to", refuse)
        return httpx.Response(500)

    def refuse(path, *given, **more):
        raise OSError(30, "Read-only file system")

    watched = watch(ladder, FakeServer(), webhook="http://supervisor", transport=httpx.MockTransport(hook))
    with pytest.raises(SwitchError, match=r"did not take .* cannot be moved .* point to 0-small by hand"):
        watched.switch(1, "by hand")
    # The rung that the link names is the one that is on, whoever was told.
    assert watched.check().rung == 1


def test_a_webhook_is_not_told_of_a_link_that_cannot_move(ladder, monkeypatch):
    told = []
    hook = httpx.MockTransport(lambda request: told.append(request) or httpx.Response(204))
    watched = watch(ladder, FakeServer(), webhook="http://supervisor", transport=hook)

    def refuse(path, *given, **more):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(SwitchError, match="cannot be moved"):
        watched.switch(1, "by hand")
    assert not told


def test_a_link_elsewhere_begins_at_the_first_rung_and_is_relative(ladder, tmp_path):
    (tmp_path / "served").mkdir()
    link = tmp_path / "served" / "now"
    watched = watch(ladder, FakeServer(), link=link)
    assert str(link.readlink()) == "../ladder/0-small"
    watched.switch("safe", "by hand")
    assert str(link.readlink()) == "../ladder/2-safe"
    assert [path.name for path in link.parent.iterdir()] == ["now"]


def test_what_cannot_be_switched_is_refused(ladder, tmp_path):
    for webhook in ("supervisor:80", "http://[::1", "http://supervisor:abc", "http://"):
        with pytest.raises(SwitchError, match="no address"):
            Switcher(read_ladder(ladder), webhook)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SwitchError, match="no link"):
        Switcher(read_ladder(ladder, tmp_path / "file"))
    with pytest.raises(SwitchError, match="alone"):
        Switcher(read_ladder(ladder / "0-small"))
    watched = watch(ladder, FakeServer())
    for wrong in ("nobody", 7, -1):
        with pytest.raises(MonitorError, match="not on the ladder"):
            watched.switch(wrong, "")
    watched.switch(2, "")
    with pytest.raises(SwitchError, match="last"):
        watched.switch(None, "")
    shutil.rmtree(ladder / "1-middle")
    with pytest.raises(SwitchError, match="not there"):
        watched.switch(1, "")


# -- files -------------------------------------------------------------------------------------------------------


def test_an_export_alone_is_watched_and_not_switched(tmp_path):
    export, server = write_export(tmp_path / "export", "one"), FakeServer()
    watched = watch(export, server, in_a_row=1)
    assert not watched.check().broken
    server.shift = 50
    assert "last rung" in watched.check().note
    assert not watched.can_switch


def test_a_limit_is_ten_tolerances_of_a_verified_export():
    assert default_trigger(None).limit == pytest.approx(10 * LEAST_TOLERANCE)
    assert default_trigger(0.3).limit == pytest.approx(10 * RELATIVE_TOLERANCE * 0.3)


@pytest.mark.parametrize("folder", ["../0-small", "/etc", "..", "", "a/b", "a\\b"])
def test_rungs_outside_the_ladder_are_refused(ladder, folder):
    values = unsealed(json.loads((ladder / LADDER).read_text()))
    values["rungs"][0]["folder"] = folder
    (ladder / LADDER).write_text(json.dumps(sealed(values)))
    with pytest.raises(MonitorError, match="is no name beside"):
        read_ladder(ladder)


def test_canaries_of_another_export_are_refused(ladder, tmp_path):
    shutil.copy(ladder / "1-middle" / CANARIES, ladder / "0-small" / CANARIES)
    with pytest.raises(VerificationError, match=MANIFEST):
        watch(ladder, FakeServer())
    (ladder / "0-small" / CANARIES).unlink()
    with pytest.raises(RunError, match="no canaries"):
        watch(ladder, FakeServer())
    with pytest.raises(MonitorError, match="neither"):
        read_ladder(tmp_path)
