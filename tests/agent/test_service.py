"""The agent as a whole on loopback addresses where nobody listens, and the supervisor of its loops."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.appraisal import Terms
from agent.baseline import SAMPLES_NEEDED
from agent.clock import Clock
from agent.config import Config, PollSection, ScanSection
from agent.curtailment import CurtailmentPolicy, Mode, Rule
from agent.orders import OrderState
from agent.policy import Action, Reason
from agent.rows import to_ms
from agent.service import FIT_AGAIN, Agent
from agent.store import Reader, Store
from agent.tenure import Alone, Inheritance, NotOursError
from drivers.discovery import ScanResult
from drivers.driver import NoAnswer, WrongMachine
from drivers.reading import Address, Family, RunState
from tests.agent.builders import (
    NOW,
    FakeDriver,
    HandClock,
    asleep,
    eventually,
    identity,
    mac,
    machine,
    order,
    reading,
    restore_point,
)
from tests.agent.processes import CLI, child_environment, python

CONFIG = Config(poll=PollSection(interval_s=1.0, deadline_s=1.0))
NOBODY_THERE = Address(host="127.66.0.1")


@pytest.fixture
def database(tmp_path):
    return tmp_path / "hashcost.db"


def known(database, *machines):
    """A store as an agent left it that knew these machines."""
    with Store(database) as store:
        store.save_machines(machines, Terms())
        store.save_baselines(machines)


class SiteOfFakes(Agent):
    """An agent whose machines are fake drivers; everything behind them is real."""

    fakes: dict

    def _driver(self, machine_id):
        return self.fakes[machine_id]


def site(database, *drivers, clock=None, kind=SiteOfFakes, **claims):
    known(database, *[machine(number) for number in range(1, len(drivers) + 1)])
    agent = kind(CONFIG, database, clock=Clock(now=clock or HandClock()), **claims)
    agent.fakes = {mac(number): driver for number, driver in enumerate(drivers, start=1)}
    return agent


async def test_machines_that_refuse_are_unreachable_and_stored_as_such(database):
    known(database, machine(1, address=NOBODY_THERE), machine(2, address=Address(host="127.66.0.2")))
    async with Agent(CONFIG, database) as agent:
        shown = await agent.poll_once()
    assert [(view.action, view.reason, view.failure) for view in shown.views] == [
        (Action.HOLD, Reason.UNREACHABLE, "refused")
    ] * 2
    with Reader(database) as reader:
        assert {view.failure for view in reader.latest()} == {"refused"}
        assert reader.last_round_at() is not None
    with closing(sqlite3.connect(database)) as connection:
        row = connection.execute("select machines, answered, failed from rounds").fetchone()
    assert row == (2, 0, 2)


async def test_a_machine_that_this_version_cannot_read_does_not_stop_the_others(database):
    stranger = identity(2, family=Family.GENERIC, driver_class="MinerOfAnotherVersion")
    known(database, machine(1, address=NOBODY_THERE), machine(2, address=NOBODY_THERE, identity=stranger))
    async with Agent(CONFIG, database) as agent:
        shown = await agent.poll_once()
    assert {view.machine_id: view.failure for view in shown.views} == {
        mac(1): "refused",
        mac(2): "unsupported",
    }


async def test_the_inventory_and_its_baselines_come_back_after_a_restart(database):
    known(database, machine(1, *[reading()] * SAMPLES_NEEDED, address=NOBODY_THERE))
    async with Agent(CONFIG, database) as agent:
        (only,) = agent.fleet
    assert only.address == NOBODY_THERE
    assert only.baselines.latest.hashrate_ths == 200.0


async def test_a_round_is_appraised_under_the_configured_prices_and_stored(database):
    async with site(database, FakeDriver(reading())) as agent:
        shown = await agent.poll_once()
    assert round(shown.market.hashprice_usd_per_ph_day, 2) == 39.44
    assert shown.market.at == NOW
    assert shown.views[0].margin_usd_per_day == pytest.approx(2.848, abs=1e-3)
    with Reader(database) as reader:
        assert reader.latest() == shown.views


async def test_a_reading_stands_for_two_and_a_half_intervals(database):
    clock = HandClock()
    async with site(database, FakeDriver(reading(), NoAnswer("x", "y")), clock=clock) as agent:
        await agent.poll_once()
        with Reader(database) as reader:
            ((_, (stored,)),) = reader.readings(NOW, NOW + timedelta(seconds=1))
    assert (stored.began_ms, stored.valid_ms) == (to_ms(NOW), 2500)


async def test_an_hour_that_is_over_is_booked_beside_the_rounds(database):
    clock = HandClock()

    def booked():
        with Reader(database) as reader:
            return [each for _, hours in reader.booked(0, 2**52) for each in hours]

    driver = FakeDriver(*(reading(began_at=NOW + timedelta(hours=hours)) for hours in (0, 1)))
    async with site(database, driver, clock=clock) as agent:
        await agent.poll_once()
        clock.forward(hours=1)
        await agent.poll_once()
        books = asyncio.create_task(agent.book_forever())
        await eventually(booked)
        books.cancel()
        with suppress(asyncio.CancelledError):
            await books
    (hour,) = booked()
    assert hour[1:3] == (to_ms(NOW), pytest.approx(2.5 / 3600))


async def test_a_failure_is_logged_once_and_its_end_once(database, lines):
    down = NoAnswer("10.0.0.1", "nobody there")
    driver = FakeDriver(reading(), down, down, down, reading(), down, reading(), reading(), down, reading())
    async with site(database, driver) as agent:
        while driver.reads < 14:
            await agent.poll_once()
            assert len(lines("event=read_recovered")) == (driver.reads >= 12)
    assert len(lines("event=read_failed")) == 1
    assert f"machine={mac(1)} kind=no_answer" in lines("event=read_failed")[0]
    assert lines("event=read_recovered") == [f"event=read_recovered machine={mac(1)}"]


async def test_baselines_are_written_when_the_agent_stops(database):
    driver = FakeDriver(reading())
    async with site(database, driver) as agent:
        for _ in range(SAMPLES_NEEDED):
            await agent.poll_once()
    with Store(database) as store:
        (after,) = store.load_machines()
    assert after.baselines.latest.power_w == 3500.0


async def test_another_machine_at_an_address_is_held_as_unreachable(database):
    async with site(database, FakeDriver(WrongMachine("10.0.0.1", "is another"))) as agent:
        shown = await agent.poll_once()
    assert (shown.views[0].run_state, shown.views[0].failure) == (RunState.UNKNOWN, "wrong_machine")


async def test_another_machine_at_an_address_makes_the_agent_scan_again(database, monkeypatch):
    monkeypatch.setattr("agent.service.SCAN_PAUSE_S", 0.01)
    scans = []

    class Scanning(SiteOfFakes):
        async def scan(self, progress=None):
            scans.append(progress)

    drivers = [FakeDriver(reading(), WrongMachine("10.0.0.1", "is another"))]
    async with site(database, *drivers, kind=Scanning) as agent, asyncio.TaskGroup() as group:
        scanning = group.create_task(agent._scan_loop())
        await agent.poll_once()
        await asyncio.sleep(0.1)
        assert len(scans) == 1
        await agent.poll_once()
        await eventually(lambda: len(scans) == 2)
        scanning.cancel()


def found_during_a_read(agent, found):
    """A machine whose read lets a scan take its turn that found these."""

    async def scanned():
        result = ScanResult(found=found, failures=(), silent=0)
        changes = agent._inventory.take_in(result)
        await agent._in_writer(agent._store.retire, changes.retired, NOW)
        return reading()

    return scanned


@pytest.mark.parametrize("outcome", [reading(), NoAnswer("10.0.0.2", "nobody there")], ids=["read", "silent"])
async def test_a_scan_that_retires_a_machine_during_a_round_does_not_stop_it(database, outcome):
    denied = identity(2, mac=None, serial="X7")
    known(database, machine(1), machine(2, identity=denied))
    agent = SiteOfFakes(CONFIG, database, clock=Clock(now=HandClock()))
    told = [(Address(host="10.0.0.2"), identity(2))]
    agent.fakes = {
        mac(1): FakeDriver(found_during_a_read(agent, told), number=1),
        "sn:X7": FakeDriver(outcome, number=2),
    }
    async with agent:
        await agent._in_writer(agent._store.save_machines, [machine(2)], Terms())
        shown = await agent.poll_once()
        assert "sn:X7" not in agent.fleet
        assert {view.machine_id for view in shown.views} == {mac(1), mac(2)}
    with Reader(database) as reader:
        assert {view.machine_id for view in reader.latest()} == {mac(1), mac(2)}
        assert reader.last_round_at() is not None


async def test_a_machine_that_joins_during_a_round_is_stored_before_the_round_is(database, monkeypatch):
    async def one_more(*_, **__):
        found = [(Address(host=f"10.0.0.{number}"), identity(number)) for number in (1, 2)]
        return ScanResult(found=found, failures=(), silent=0)

    async def once_it_joined():
        await eventually(lambda: mac(2) in agent.fleet)
        return reading()

    monkeypatch.setattr("agent.service.scan", one_more)
    async with site(database, FakeDriver(once_it_joined)) as agent, asyncio.TaskGroup() as group:
        agent._writer.submit(time.sleep, 0.2)
        polling = group.create_task(agent.poll_once())
        group.create_task(agent.scan())
    assert len(polling.result().views) == 2
    with Reader(database) as reader:
        assert {view.machine_id for view in reader.latest()} == {mac(1), mac(2)}


async def test_a_machine_that_a_scan_found_elsewhere_is_read_at_once(database, monkeypatch):
    driver = FakeDriver(NoAnswer("10.0.0.1", "nobody there"))

    async def found_elsewhere(*_, **__):
        return ScanResult(found=[(Address(host="10.0.0.9"), identity(1))], failures=(), silent=0)

    monkeypatch.setattr("agent.service.scan", found_elsewhere)
    async with site(database, driver) as agent:
        for _ in range(4):
            await agent.poll_once()
        before = driver.reads
        await agent.scan()
        await agent.poll_once()
    assert (before, driver.reads) == (3, 4)


async def test_polling_shows_every_picture_and_counts_the_rounds_it_was_late_for(database, lines):
    shown = []

    async with site(database, FakeDriver(reading(), takes_s=1.3)) as agent:
        polling = asyncio.ensure_future(agent.poll_forever(shown.append))
        await eventually(lambda: agent.skipped_rounds > 0)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        assert agent.skipped_rounds == 1
    assert len(shown) == 1
    assert lines("event=rounds_skipped") == ["event=rounds_skipped count=1 total=1 interval_s=1 workers=64"]


async def test_that_rounds_do_not_fit_is_said_once_and_that_they_do_again_once(database, lines):
    async with site(database, FakeDriver(reading())) as agent:
        for skipped in (0, 2, 1, 0, 0, 1, *[0] * FIT_AGAIN, 0, 1):
            agent._count_skipped(skipped)
        assert agent.skipped_rounds == 5
    told = [line.split()[0] for line in lines("event=rounds_")]
    assert told == ["event=rounds_skipped", "event=rounds_fit_again", "event=rounds_skipped"]


async def test_a_scan_of_addresses_where_nobody_listens_finds_nothing_and_removes_nothing(database):
    known(database, machine(1, address=NOBODY_THERE))
    config = Config(scan=ScanSection(addresses=["127.66.0.1-3"]), poll=CONFIG.poll)
    async with Agent(config, database) as agent:
        changes = await agent.scan()
        assert (list(changes.events), list(changes.reconnect)) == ([], [])
        assert len(agent.fleet) == 1


async def test_cancelling_the_agent_ends_it_at_once_and_closes_the_store(database):
    async with site(database, FakeDriver(asyncio.Event().wait)) as agent:
        running = asyncio.ensure_future(agent.run())
        while not agent.fakes[mac(1)].reads:
            await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert agent.fakes[mac(1)].cancelled
    assert not database.with_name("hashcost.db-wal").exists()


def wait_for_a_failure(database, kind):
    """Until a round is stored that found it; there may be one before it that found nothing in its time."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with Reader(database) as reader:
            if any(view.failure == kind for view in reader.latest()):
                return
        time.sleep(0.01)
    pytest.fail("no round was stored")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_the_command_ends_cleanly_when_asked_to(tmp_path, number):
    (tmp_path / "site.toml").write_text(
        '[scan]\naddresses = ["127.66.0.1"]\n[poll]\ninterval_s = 1\ndeadline_s = 1\n'
    )
    known(tmp_path / "db", machine(1, address=NOBODY_THERE))
    arguments = ["run", "--config", tmp_path / "site.toml", "--database", tmp_path / "db"]
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, *arguments], stderr=subprocess.PIPE, text=True, env=child_environment()
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "event=read_failed" in line:
            wait_for_a_failure(tmp_path / "db", "refused")
            process.send_signal(number)
    assert process.wait(timeout=60) == 0, "".join(seen)
    process.stderr.close()
    assert sum("event=read_failed" in line for line in seen) == 1
    assert "event=started" in seen[0]
    assert "event=stopped" in seen[-1]
    assert "Traceback" not in "".join(seen)
    with Reader(tmp_path / "db") as reader:  # `status` would find it stale by now on a busy host
        assert [view.failure for view in reader.latest()] == ["refused"]


@pytest.mark.parametrize(
    ("command", "place"),
    [("run", "agent.daemon.run_until_stopped"), ("run", "agent.config.load"), ("demo", "agent.demo.run")],
)
def test_ctrl_c_before_it_is_heeded_is_the_end_too(tmp_path, command, place):
    (tmp_path / "site.toml").write_text('[scan]\naddresses = ["127.66.0.1"]\n')
    code = f"""
import signal, sys
from importlib import import_module
module, name = {place!r}.rsplit(".", 1)
setattr(import_module(module), name, lambda *_, **__: signal.raise_signal(signal.SIGINT))
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
    options = {"run": ["--config", str(tmp_path / "site.toml")], "demo": []}
    done = python(code + CLI, command, *options[command])
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_round_that_cannot_be_stored_is_shown_and_nothing_is_done(database, lines):
    """A disk that became read-only: the agent observes, loudly, and acts once it can record what it does."""
    async with site(database, FakeDriver(reading(hashrate_ths=20.0))) as agent:
        agent.curtailer.policy = CurtailmentPolicy(mode=Mode.AUTO, rule=Rule.DEAD_BAND)
        agent._store._db.conn.execute("pragma query_only = on")
        for _ in range(2):
            shown = await agent.poll_once()
            assert shown.views[0].action is Action.CURTAIL
        assert "cannot be written (attempt to write a readonly database)" in agent.storage_problem
        assert agent.reconciler.all() == []
        assert agent.fakes[mac(1)].commands == []
        assert (await agent.operations.status())["storage_problem"] == agent.storage_problem
        assert len(lines("event=storage_failed")) == 1
        agent._store._db.conn.execute("pragma query_only = off")
        await agent.poll_once()
        assert agent.storage_problem is None
        assert len(lines("event=storage_recovered")) == 1
        async with asyncio.timeout(60):
            while not agent.fakes[mac(1)].commands:
                await asyncio.sleep(0.01)


async def test_that_an_agent_ends_proves_nothing_of_its_disk(database, lines):
    async with site(database) as agent:
        agent._store._db.conn.execute("pragma query_only = on")
        await agent.poll_once()
        assert agent.storage_problem
    assert len(lines("event=storage_failed")) == 1
    assert lines("event=storage_recovered") == []


class Lent(Alone):
    """A claim to the machines that comes and goes, and refuses what it does not cover at the last moment."""

    may_command = refuses = False

    @asynccontextmanager
    async def sending(self, order):
        if self.refuses:
            raise NotOursError("no more")
        yield


async def test_an_agent_that_may_not_command_reads_on_and_does_nothing_and_acts_as_soon_as_it_may(
    database, lines
):
    tenure = Lent()
    async with site(database, FakeDriver(reading(hashrate_ths=20.0)), tenure=tenure) as agent:
        agent.curtailer.policy = CurtailmentPolicy(mode=Mode.AUTO, rule=Rule.DEAD_BAND)
        shown = await agent.poll_once()
        assert shown.views[0].action is Action.CURTAIL
        assert agent.reconciler.all() == []
        tenure.may_command = tenure.refuses = True
        await agent.poll_once()
        await eventually(lambda: lines("event=order_not_sent"))
        assert [order.state for order in agent.reconciler.all()] == [OrderState.APPROVED]
        assert agent.fakes[mac(1)].commands == []
        tenure.refuses = False
        await agent.poll_once()
        await eventually(lambda: agent.fakes[mac(1)].commands)


class Inherited(Alone):
    """A claim to machines that another agent has had."""

    def __init__(self, *orders):
        self.inheritance = Inheritance(token=7, orders=orders, first_order_id=100)
        self.kept = []

    def keep_order(self, order):
        self.kept.append(order.order_id)


async def test_an_order_of_another_agent_waits_for_its_machine_and_is_verified_when_it_is_found(
    database, monkeypatch, lines
):
    asleep_on = order(order_id=41, machine_id=mac(2), state=OrderState.CONFIRMED, confirmed_at=NOW)
    asleep_on = replace(asleep_on, settled_at=NOW, dispatched_at=NOW, restore=restore_point())
    sent = order(order_id=42, machine_id=mac(3), state=OrderState.DISPATCHING, dispatched_at=NOW, attempts=1)
    tenure = Inherited(asleep_on, replace(sent, restore=restore_point()))
    clock = HandClock(NOW + timedelta(seconds=60))

    async def all_three(*_, **__):
        found = [(Address(host=f"10.0.0.{number}"), identity(number)) for number in (1, 2, 3)]
        return ScanResult(found=found, failures=(), silent=0)

    monkeypatch.setattr("agent.service.scan", all_three)
    async with site(database, FakeDriver(reading()), clock=clock, tenure=tenure) as agent:
        await agent.poll_once()
        assert agent.reconciler.all() == []
    tenure.inheritance = None  # it has been taken over, and the agent starts anew
    async with SiteOfFakes(CONFIG, database, clock=Clock(now=clock), tenure=tenure) as agent:
        assert len(lines("event=order_of_unknown_machine")) == 4
        agent.fakes = {
            mac(1): FakeDriver(reading()),
            mac(2): FakeDriver(asleep(began_at=clock()), number=2),
            mac(3): FakeDriver(asleep(began_at=clock()), number=3),
        }
        agent.curtailer.policy = CurtailmentPolicy(mode=Mode.OBSERVE, rule=Rule.DEAD_BAND)
        await agent.scan()
        await agent.poll_once()
        states = {each.order_id: each.state for each in agent.reconciler.all()}
        assert states == {41: OrderState.CONFIRMED, 42: OrderState.DISPATCHED}
        await agent.poll_once()
        assert {*agent.reconciler.standing()} == {mac(2), mac(3)}  # and so they are woken when it pays
        assert [each.commands for each in agent.fakes.values()] == [[], [], []]
        assert {41, 42} <= {*tenure.kept}
    with Store(database) as store:
        assert {each.order_id for each in store.load_orders(NOW)} == {41, 42}


async def test_a_disk_that_fails_before_a_command_is_sent_keeps_it_from_being_sent(database, lines):
    async with site(database, FakeDriver(reading(hashrate_ths=20.0))) as agent:
        agent.curtailer.policy = CurtailmentPolicy(mode=Mode.AUTO, rule=Rule.DEAD_BAND)
        store = agent._store

        def fails(before, after):
            if after.state is OrderState.DISPATCHING:
                raise sqlite3.OperationalError("database or disk is full")
            Store.advance(store, before, after)

        store.advance = fails
        await agent.poll_once()
        async with asyncio.timeout(60):
            while not lines("event=order_not_recorded"):
                await asyncio.sleep(0.01)
        assert agent.fakes[mac(1)].commands == []
        (order,) = agent.reconciler.all()
        assert order.state is OrderState.APPROVED
        del store.advance
        await agent.poll_once()
        async with asyncio.timeout(60):
            while agent.fakes[mac(1)].commands != [("sleep",)]:
                await asyncio.sleep(0.01)
