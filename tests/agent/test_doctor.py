"""`hashcost check` as a doctor: what is wrong with the host, and what to do about it."""

import os
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from agent.check import _mark, _quirks
from agent.config import Config, parse
from agent.doctor import Finding, clock_finding, disk_finding, host_findings
from agent.kernel_clock import KernelClock, kernel_clock
from agent.vitals import Disk
from drivers.reading import Address, Family
from tests.agent.builders import NOW, identity, machine, reading, stored_site

GB = 10**9
WELL = KernelClock(synchronised=True, max_error_s=0.012)


def findings(config, database, config_path=None, now=NOW):
    return host_findings(config, database, config_path=config_path, now=now)


def bad(found, what):
    return [each.detail for each in found if each.what == what and not each.ok]


@pytest.mark.parametrize(
    ("clock", "matters", "ok", "note", "said"),
    [
        (WELL, True, True, False, "at most 12 ms off"),
        (KernelClock(synchronised=False, max_error_s=16.0), True, False, True, "timedatectl set-ntp true"),
        (KernelClock(synchronised=False, max_error_s=16.0), False, True, True, "may come at the wrong time"),
        (KernelClock(synchronised=True, max_error_s=3.5), True, False, True, "3.5 s off"),
        (None, True, True, True, "does not tell"),
    ],
)
def test_the_clock(clock, matters, ok, note, said):
    found = clock_finding(clock, matters=matters)
    assert (found.ok, found.note) == (ok, note)
    assert said in found.detail


def test_the_kernel_is_asked_without_any_privilege_and_nothing_changes():
    first, second = kernel_clock(), kernel_clock()
    assert first is None or first.max_error_s >= 0
    assert (first is None) is (second is None)


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("", True),
        ('[power]\nkind = "time_of_use"\n[[power.periods]]\nprice_usd_per_kwh = 0.1', False),
        ('[obligations]\nschedule_file = "/x"', False),
    ],
)
def test_a_clock_that_nobody_keeps_matters_where_something_goes_by_the_hour(tmp_path, monkeypatch, text, ok):
    monkeypatch.setattr(
        "agent.doctor.kernel_clock", lambda: KernelClock(synchronised=False, max_error_s=16.0)
    )
    found = findings(parse(text, source="test"), tmp_path / "h.db")
    assert bool(bad(found, "clock")) is not ok


@pytest.mark.parametrize(
    ("disk", "ok"),
    [
        (Disk(free_bytes=50 * GB, total_bytes=100 * GB), True),
        (Disk(free_bytes=5 * GB, total_bytes=100 * GB), False),
        (Disk(free_bytes=GB // 2, total_bytes=2 * GB), False),
        (Disk(), True),
    ],
)
def test_the_disk(disk, ok):
    found = disk_finding(disk, 0.1)
    assert found.ok is ok
    assert ok or "make room" in found.detail


def test_a_sound_database_and_one_that_is_damaged_or_from_the_future(tmp_path):
    path = tmp_path / "h.db"
    stored_site(path, *[machine(number, reading()) for number in range(1, 200)])
    assert bad(findings(Config(), path), "database") == []
    (told,) = bad(findings(Config(), path, now=NOW - timedelta(days=1)), "database")
    assert "was the clock set back" in told
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("pragma journal_mode=delete")
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xff" * 4096)
    (told,) = bad(findings(Config(), path), "database")
    assert "restore-db" in told or "malformed" in told


def archived_to(directory, **keys):
    keep = "".join(f"{name} = {value}\n" for name, value in keys.items())
    return parse(f'[history]\narchive_directory = "{directory}"\n{keep}', source="test")


def test_whether_old_days_can_be_put_away(tmp_path):
    path = tmp_path / "h.db"
    assert [each for each in findings(Config(), path) if each.what == "archive"] == []
    (fine,) = [each for each in findings(archived_to(tmp_path / "a" / "b"), path) if each.what == "archive"]
    assert (fine.ok, fine.detail) == (True, f"{tmp_path}/a/b: can be written")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "file").chmod(0o777)
    (told,) = bad(findings(archived_to(tmp_path / "file" / "old"), path), "archive")
    assert "cannot write there" in told
    assert str(tmp_path / "file") in told
    (never,) = [
        each for each in findings(archived_to(tmp_path, steps_days=0), path) if each.what == "archive"
    ]
    assert never.note
    assert "for ever" in never.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("owner", "mode", "ok"), [(4242, 0o755, True), (0, 0o755, False), (0, 0o777, True), (4242, 0o555, False)]
)
def test_root_asks_whether_whoever_has_the_database_may_put_old_days_away(tmp_path, owner, mode, ok):
    path = tmp_path / "h.db"
    stored_site(path, machine(1, reading()))
    os.chown(path, 4242, 4242)
    (tmp_path / "old").mkdir()
    os.chown(tmp_path / "old", owner, owner)
    (tmp_path / "old").chmod(mode)
    assert (bad(findings(archived_to(tmp_path / "old"), path), "archive") == []) is ok


def test_copies_that_have_grown_old(tmp_path):
    path = tmp_path / "h.db"
    stored_site(path, machine(1, reading()))
    (none,) = [each for each in findings(Config(), path) if each.what == "backup"]
    assert none.note
    assert "hashcost backup" in none.detail
    copies = tmp_path / "backups"
    copies.mkdir()
    (copies / "hashcost-1.db").touch()
    os.utime(copies / "hashcost-1.db", (NOW.timestamp(), NOW.timestamp()))
    assert bad(findings(Config(), path, now=NOW + timedelta(hours=30)), "backup") == []
    (old,) = bad(findings(Config(), path, now=NOW + timedelta(days=3)), "backup")
    assert "3 days old" in old


def test_passwords_that_everybody_may_read_and_files_that_everybody_may_change(tmp_path):
    (secret := tmp_path / "pw").write_text("x")
    (config_path := tmp_path / "c.toml").write_text(
        f'[overrides.a.credentials.antminer]\nusername = "root"\npassword_file = "{secret}"\n'
    )
    config = parse(config_path.read_text(), source="test")
    secret.chmod(0o600)
    assert bad(findings(config, tmp_path / "h.db", config_path), "permissions") == []
    secret.chmod(0o644)
    (told,) = bad(findings(config, tmp_path / "h.db", config_path), "permissions")
    assert str(secret) in told
    assert "chmod 600" in told
    secret.chmod(0o640)
    config_path.chmod(0o666)
    (told,) = bad(findings(config, tmp_path / "h.db", config_path), "permissions")
    assert str(config_path) in told
    assert "chmod o-w" in told


def test_addresses_of_alerts_are_looked_at_and_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("GOOD", "json://user:canary@127.0.0.1:9")
    monkeypatch.setenv("BAD", "canary nonsense")
    text = '[alerts.targets.a]\npassword_env = "GOOD"\n[alerts.targets.b]\npassword_env = "BAD"\n'
    found = findings(parse(text, source="test"), tmp_path / "h.db")
    assert [(each.what, each.ok) for each in found if each.what.startswith("alerts")] == [
        ("alerts a", True), ("alerts b", False),
    ]  # fmt: skip
    assert "canary" not in repr(found)


def test_what_is_known_of_machines_is_told_once_for_each_kind_with_an_example():
    machines = [
        (Address(host=f"10.0.0.{number}"), who)
        for number, who in enumerate(
            [
                identity(1),
                identity(2, mac=None, serial="x"),
                identity(3, model="Antminer S9"),
                identity(4, model="Antminer S17 Pro"),
                identity(5, family=Family.WHATSMINER_V2, model="M30S_VE10"),
                identity(6, family=Family.GENERIC, driver_class="LUXMinerS19", model="S19"),
                identity(7, family=Family.GENERIC, driver_class="BitAxeUltra", model="Ultra"),
            ]
        )
    ]
    found = {each.what: each.detail for each in _quirks(machines)}
    assert found["no login"].startswith("1 machines, 10.0.0.1 among them")
    assert found["cannot sleep over the API"].startswith("2 machines")
    assert "Whatsminer V2" in found
    assert "402" in found["LuxOS"]
    assert found["read only"].startswith("1 machines, 10.0.0.6")
    assert "Whatsminer V3" not in found


def test_a_note_is_marked_as_one():
    marks = [
        _mark(Finding(what="x", ok=ok, note=note, detail="y")).plain
        for ok, note in [(True, False), (True, True), (False, False), (False, True)]
    ]
    assert marks == ["ok    ", "note  ", "FAILED", "FAILED"]
