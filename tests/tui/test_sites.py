"""The terminal of a fleet: sites with age and health, all machines with their site, and each site as on site."""

import os
import pty
import select
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from agent.errors import UsageError
from tests.agent.builders import asleep, at, mac, machine, market, reading, save
from tests.agent.processes import child_environment
from tests.agent.test_fleet import Site, delivered
from tests.tui.screens import shows, text, until
from tui.app import HashcostApp, run_fleet
from tui.fleet_source import CopySource, FleetSource
from tui.sites import Chosen, SitesApp

WIDE = (200, 40)
LOSING = 9000.0


def fleet(tmp_path, **sites: tuple[timedelta, list]):
    """A fleet's directory: each site with its machines, told so long ago."""
    made = []
    now = datetime.now(UTC)
    for name, (ago, machines) in sites.items():
        made.append(site := Site(tmp_path / "sites", name))
        then = now - ago
        save(site.store, *at(then, machines), market=market(at=then))
    for site in made:
        delivered(tmp_path / "fleet", site.flush(), heard_at=now)
        site.stop()
    return tmp_path / "fleet"


@pytest.fixture
def three(tmp_path):
    directory = fleet(
        tmp_path,
        denver=(timedelta(), [machine(1, reading()), machine(2, reading(power_w=LOSING))]),
        tulsa=(timedelta(minutes=10), [machine(3, reading())]),
        ulvik=(timedelta(), [machine(4, asleep()), machine(5, reading(power_w=2 * LOSING))]),
    )
    (directory / "boise.db").write_bytes(b"no database")
    return directory


@asynccontextmanager
async def opened(directory, size=WIDE):
    async with SitesApp(FleetSource(directory)).run_test(size=size) as pilot:
        yield pilot


def line_of(pilot, word):
    return next(line.split() for line in text(pilot).splitlines() if word in line)


async def test_every_site_is_shown_with_its_age_and_health_and_sums_of_those_that_are_known(three):
    async with opened(three) as pilot:
        await shows(pilot, "boise", "denver", "tulsa", "ulvik")
        assert line_of(pilot, "boise")[:2] == ["boise", "unreadable"]
        assert line_of(pilot, "denver")[1] == "ok"
        silent = line_of(pilot, "tulsa")
        assert silent[1:4] == ["silent", "10", "min"]
        assert silent[4:] == [
            "1",
            "-",
            "-",
            "1",
            *["-"] * 6,
        ]  # machines, and that nothing is known of what they do
        assert line_of(pilot, "ulvik")[4:7] == ["2", "1", "1"]
        await shows(pilot, "4 machines", "not in the sums, since nothing is known of them now: tulsa")


async def test_all_machines_stand_with_their_site_worst_first_and_open_at_it(three):
    async with opened(three) as pilot:
        await shows(pilot, "denver")
        await pilot.press("m")
        await shows(pilot, "recommendation", "10.0.0.2")
        table = pilot.app.screen.table
        assert next((row.site, row.view.machine_id) for row in table.rows) == ("ulvik", mac(5))
        assert {row.site for row in table.rows} == {"denver", "tulsa", "ulvik"}
        await pilot.press("s")
        assert [row.site for row in table.rows] == ["denver", "denver", "tulsa", "ulvik", "ulvik"]
        await pilot.press("d")
        assert next(row.site for row in table.rows) == "ulvik"
        await pilot.press("escape")
        await shows(pilot, "health")
        await pilot.press("m", "home", "enter")
        await until(pilot, lambda: pilot.app.return_value is not None)
    assert pilot.app.return_value == Chosen(site="ulvik", machine_id=mac(5))


async def test_what_sites_tell_appears_and_enter_opens_one(three, tmp_path):
    async with opened(three) as pilot:
        await shows(pilot, "denver")
        late = Site(tmp_path / "sites", "akron")
        now = datetime.now(UTC)
        save(late.store, *at(now, [machine(9, reading())]), market=market(at=now))
        delivered(three, late.flush(), heard_at=now)
        late.stop()
        await shows(pilot, "akron")
        await pilot.press("home", "enter")
        await until(pilot, lambda: pilot.app.return_value is not None)
    assert pilot.app.return_value == Chosen(site="akron")


async def test_a_site_of_a_fleet_is_seen_as_on_site_and_nothing_is_said_of_an_agent_that_is_elsewhere(three):
    app = HashcostApp(CopySource(three / "denver.db"), site_name="denver", machine=mac(2))
    async with app.run_test(size=WIDE) as pilot:
        await shows(pilot, "denver", "10.0.0.2", "9000")
        assert pilot.app.current_mode == "machine"
        assert "AGENT DOWN" not in text(pilot)
        await pilot.press("1")
        await shows(pilot, "10.0.0.1", "10.0.0.2")
        for number in "3456":
            await pilot.press(number)
            await shows(pilot, "denver")


async def test_a_site_whose_clock_is_fast_is_not_shown_as_it_was_once_it_has_fallen_silent(tmp_path):
    ahead, silent_for = timedelta(hours=1), timedelta(minutes=10)
    directory = fleet(tmp_path, denver=(-ahead, [machine(1, reading(power_w=LOSING))]))
    later = datetime.now(UTC) + silent_for
    app = HashcostApp(CopySource(directory / "denver.db", clock=lambda: later), site_name="denver")
    async with app.run_test(size=WIDE) as pilot:
        await shows(
            pilot, "denver", "STALE: last poll 10 min ago", "what the site draws and earns is unknown"
        )
        assert "9000" not in text(pilot)
    async with SitesApp(FleetSource(directory, clock=lambda: later)).run_test(size=WIDE) as pilot:
        await shows(pilot, "silent")
        assert line_of(pilot, "denver")[1:4] == ["silent", "10", "min"]
        await pilot.press("m")
        await shows(pilot, "10.0.0.1")
        assert "9000" not in text(pilot)


def test_a_fleet_is_not_operated_from_its_terminal(three):
    with pytest.raises(UsageError, match="hashcost fleet tell"):
        run_fleet(three, operate=True)


def test_a_person_goes_to_a_site_and_back(three):
    """The real program in a real terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tui", str(three), "/nowhere.sock"],
        stdin=follower, stdout=follower, stderr=follower, env={**child_environment(), "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(follower)
    screen = b""

    def until_seen(word):
        nonlocal screen
        deadline = time.monotonic() + 60
        while word not in screen:
            assert time.monotonic() < deadline, screen[-3000:]
            if select.select([leader], [], [], 0.5)[0]:
                screen += os.read(leader, 65536)
        screen = b""

    try:
        until_seen(b"ulvik")
        os.write(leader, b"\x1b[B\r")  # past the one that cannot be read
        until_seen(b"10.0.0.2")
        os.write(leader, b"q")
        until_seen(b"ulvik")
        os.write(leader, b"q")
        deadline = time.monotonic() + 60
        while process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([leader], [], [], 0.2)[0]:
                try:
                    os.read(leader, 65536)
                except OSError:  # the last one has gone
                    break
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
