"""Orders carried out: what is stored before what is sent, and who is put back, released, or given up."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.appraisal import Terms
from agent.orders import OrderAction, OrderState, Patience
from agent.reconciler import Ramp, Reconciler, Sighting
from agent.store import Store
from agent.tenure import NotOursError
from drivers.driver import CommandRefused, NoAnswer, Refused
from drivers.reading import MachineId, PowerMode, RunState
from tests.agent.builders import (
    NOW,
    DirectStore,
    FakeDriver,
    HandClock,
    asleep,
    eventually,
    mac,
    machine,
    order,
    reading,
    restore_point,
)

MACHINES = 4


class Site:
    """A reconciler, its machines and a hand clock."""

    def __init__(self, reconciler, store, clock):
        self.reconciler, self.store, self.clock = reconciler, store, clock
        self.drivers = {number: FakeDriver(number=number) for number in range(1, MACHINES + 1)}

    async def tick(self, **seen):
        """One step; `m1=asleep()` says what machine 1 was seen doing just now."""
        sightings = {
            MachineId(mac(number)): Sighting(
                driver=driver,
                reading=replace(seen[f"m{number}"], began_at=self.clock()) if f"m{number}" in seen else None,
            )
            for number, driver in self.drivers.items()
        }
        await self.reconciler.tick(sightings)
        await asyncio.sleep(0.01)

    async def sleeping(self, number=1, **changes):
        """Put a machine to sleep, and see that it is."""
        await self.reconciler.order(order(machine_id=MachineId(mac(number)), **changes))
        await self.tick(**{f"m{number}": reading()})
        self.clock.forward(seconds=30)
        await self.tick(**{f"m{number}": asleep()})
        self.clock.forward(seconds=30)
        return self.reconciler.standing()[MachineId(mac(number))]

    async def waking(self, number=1):
        standing = self.reconciler.standing()[MachineId(mac(number))]
        wanted = order(machine_id=standing.machine_id, action=OrderAction.WAKE, restore=standing.restore)
        await self.reconciler.order(replace(wanted, created_at=self.clock()))
        await self.tick(**{f"m{number}": asleep()})

    def states(self):
        return [(each.action.value, each.state.value, each.failure) for each in self.reconciler.all()]


@asynccontextmanager
async def running(store, clock, **ramp):
    limits = Ramp(**{"machines": 50, "kw_per_min": 500.0} | ramp)
    remembered = store.load_orders(NOW - timedelta(days=1))
    async with Reconciler(
        DirectStore(store), remembered, clock=clock, patience=Patience(), ramp=limits
    ) as reconciler:
        yield Site(reconciler, store, clock)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "hashcost.db") as opened:
        opened.save_machines([machine(number) for number in range(1, MACHINES + 1)], Terms())
        yield opened


@pytest.fixture
async def site(store):
    async with running(store, HandClock()) as started:
        yield started


async def test_a_sleep_is_sent_once_and_confirmed_by_a_later_reading(site):
    standing = await site.sleeping()
    assert site.drivers[1].commands == [("sleep",)]
    assert standing.restore == restore_point()
    assert standing.attempts == 1


async def test_a_wake_restores_what_the_sleep_found_and_releases_it(site):
    await site.sleeping()
    await site.waking()
    site.clock.forward(seconds=100)
    await site.tick(m1=reading())
    assert site.drivers[1].commands == [("sleep",), ("wake", restore_point())]
    assert site.states() == [("sleep", "released", None), ("wake", "confirmed", None)]


async def test_a_machine_that_woke_by_itself_is_put_back_with_what_it_had(site):
    first = await site.sleeping()
    await site.tick(m1=reading(power_mode=PowerMode.LOW))
    assert site.drivers[1].commands == [("sleep",), ("sleep",)]
    (again,) = site.reconciler.open_orders().values()
    assert (again.reason, again.drifts, again.restore) == ("drift", 1, first.restore)


async def test_a_machine_that_wakes_again_and_again_is_a_person_s(site):
    await site.sleeping(drifts=2)
    await site.tick(m1=reading())
    assert site.states() == [("sleep", "failed", "fights_back")]
    assert site.drivers[1].commands == [("sleep",)]
    assert site.reconciler.given_up() == {(mac(1), OrderAction.SLEEP)}


async def test_a_machine_that_was_put_back_before_may_be_woken_like_any_other(site):
    await site.sleeping(drifts=2)
    await site.waking()
    site.clock.forward(seconds=100)
    await site.tick(m1=reading())
    assert site.states() == [("sleep", "released", None), ("wake", "confirmed", None)]


async def test_a_machine_that_wakes_before_its_wake_is_sent_is_awake_and_no_drift(site):
    await site.sleeping()
    site.reconciler.held = True
    await site.waking()
    site.clock.forward(seconds=30)
    await site.tick(m1=reading())
    assert site.states() == [("sleep", "released", None), ("wake", "confirmed", None)]
    assert site.drivers[1].commands == [("sleep",)]


async def test_a_machine_that_wakes_in_another_mode_fails_and_is_not_put_back(site):
    await site.sleeping()
    await site.waking()
    for _ in range(4):
        site.clock.forward(seconds=301)
        await site.tick(m1=reading(power_mode=PowerMode.LOW))
    assert site.states() == [("sleep", "released", None), ("wake", "failed", "wrong_mode")]
    assert [command[0] for command in site.drivers[1].commands] == ["sleep", "wake", "wake"]


async def test_a_machine_that_wakes_long_after_it_was_given_up_is_not_put_back(site):
    await site.sleeping()
    await site.waking()
    for _ in range(3):
        site.clock.forward(seconds=301)
        await site.tick(m1=asleep())
    assert ("wake", "failed", "did_not_obey") in site.states()
    site.clock.forward(hours=1)
    await site.tick(m1=reading())
    assert not site.reconciler.standing()
    assert [command[0] for command in site.drivers[1].commands] == ["sleep", "wake", "wake"]


async def test_a_wake_that_failed_leaves_the_machine_ours_to_wake(site):
    await site.sleeping()
    site.drivers[1].refuses = CommandRefused("10.0.0.1", "no")
    await site.waking()
    assert mac(1) in site.reconciler.standing()
    assert site.reconciler.given_up() == {(mac(1), OrderAction.WAKE)}


async def test_what_failed_may_be_tried_again_after_some_hours(site):
    site.drivers[1].refuses = CommandRefused("10.0.0.1", "no")
    await site.reconciler.order(order())
    await site.tick(m1=reading())
    assert site.states() == [("sleep", "failed", "command_refused")]
    site.clock.forward(hours=6, seconds=1)
    assert site.reconciler.given_up() == set()


async def test_a_machine_that_takes_no_command_is_given_up_after_a_few(site):
    site.drivers[1].refuses = Refused("10.0.0.1", "nobody listens")
    await site.reconciler.order(order())
    for _ in range(9):
        await site.tick(m1=reading())
    assert site.states() == [("sleep", "failed", "refused")]
    assert len(site.drivers[1].commands) <= Patience().attempts + 1


async def test_a_ramp_lets_so_many_machines_go_in_a_minute(store):
    async with running(store, HandClock(), machines=2) as site:
        await everybody_is_told(site, seconds=59)


async def test_a_ramp_lets_so_many_kw_go_in_a_minute(store):
    async with running(store, HandClock(), kw_per_min=7.0) as site:
        await everybody_is_told(site, seconds=59)


async def test_a_machine_that_is_more_than_a_minute_s_ramp_is_told_and_holds_up_nobody(store):
    async with running(store, HandClock(), kw_per_min=5.0) as site:
        for number, power_w in ((1, 60_000.0), (2, 3500.0)):
            await site.reconciler.order(order(machine_id=MachineId(mac(number)), power_w=power_w))
        await site.tick(m1=reading(), m2=reading())
        assert told(site) == [1]
        site.clock.forward(seconds=60)
        await site.tick(m1=asleep(), m2=reading())
        assert told(site) == [1, 2]


async def test_a_command_that_was_long_on_its_way_has_its_time_from_its_arrival_on(store):
    """The agent stood still for eight minutes while it was sending; the machine was told only afterwards."""
    clock = HandClock()
    async with running(store, clock) as site:
        driver = site.drivers[1]
        quick = driver.sleep

        async def stand_still():
            clock.forward(seconds=480)
            return await quick()

        driver.sleep = stand_still
        await site.reconciler.order(order())
        await site.tick(m1=reading())
        began = {"began_at": clock(), "ended_at": clock()}
        await site.tick(m1=reading(run_state=RunState.RAMPING, **began))
        assert site.states() == [("sleep", "dispatched", None)]
        clock.forward(seconds=30)
        await site.tick(m1=asleep(began_at=clock(), ended_at=clock()))
        assert site.states() == [("sleep", "confirmed", None)]


async def everybody_is_told(site, seconds):
    everybody = {f"m{number}": reading() for number in site.drivers}
    for number in site.drivers:
        await site.reconciler.order(order(machine_id=MachineId(mac(number))))
    await site.tick(**everybody)
    assert told(site) == [1, 2]
    site.clock.forward(seconds=seconds)
    await site.tick(**everybody)
    assert told(site) == [1, 2]
    site.clock.forward(seconds=1)
    await site.tick(**everybody | {"m1": asleep(), "m2": asleep()})
    assert told(site) == [1, 2, 3, 4]


def told(site):
    return [number for number, driver in site.drivers.items() if driver.commands]


class SlowDriver(FakeDriver):
    """Takes until `answers` is set to say how it is set."""

    def __init__(self, number):
        super().__init__(number=number)
        self.answers = asyncio.Event()

    async def restore_point(self):
        await self.answers.wait()
        return restore_point()


async def test_machines_that_are_still_being_asked_count_for_the_ramp(store):
    async with running(store, HandClock(), machines=2) as site:
        site.drivers = {number: SlowDriver(number) for number in site.drivers}
        everybody = {f"m{number}": reading() for number in site.drivers}
        for number in site.drivers:
            await site.reconciler.order(order(machine_id=MachineId(mac(number))))
        for _ in range(3):
            await site.tick(**everybody)
        for driver in site.drivers.values():
            driver.answers.set()
        await eventually(lambda: len(told(site)) >= 2)
        await site.tick(**everybody)
        assert told(site) == [1, 2]


async def test_a_hold_or_a_rejection_while_a_machine_is_asked_stops_the_command(site):
    for number in (1, 2):
        site.drivers[number] = SlowDriver(number)
        await site.reconciler.order(order(machine_id=MachineId(mac(number))))
    await site.tick(m1=reading(), m2=reading())
    await site.reconciler.reject(site.reconciler.open_orders()[MachineId(mac(1))], "anna")
    site.reconciler.held = True
    for number in (1, 2):
        site.drivers[number].answers.set()
    await asyncio.sleep(0.01)
    assert told(site) == []
    assert [state for _, state, _ in site.states()] == ["expired", "approved"]


async def test_a_hold_while_others_are_asked_for_leave_stops_the_command(site):
    asked, granted = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def sending(_order):
        asked.set()
        await granted.wait()
        yield

    site.reconciler._sending_one = sending
    await site.reconciler.order(order())
    await site.tick(m1=reading())
    await asked.wait()
    site.reconciler.held = True
    granted.set()
    await eventually(lambda: not site.reconciler._sending)
    assert told(site) == []
    assert site.states() == [("sleep", "approved", None)]


async def test_during_a_hold_nothing_is_sent_and_what_was_sent_is_confirmed(site):
    await site.reconciler.order(order())
    await site.tick(m1=reading())
    await site.reconciler.order(order(machine_id=MachineId(mac(2))))
    site.reconciler.held = True
    site.clock.forward(seconds=30)
    await site.tick(m1=asleep(), m2=reading())
    assert mac(1) in site.reconciler.standing()
    assert told(site) == [1]


async def test_a_fault_of_ours_with_one_machine_does_not_stop_the_others(site):
    site.drivers[1].refuses = ZeroDivisionError("ours")
    for number in (1, 2):
        await site.reconciler.order(order(machine_id=MachineId(mac(number))))
    await site.tick(m1=reading(), m2=reading())
    assert told(site) == [1, 2]
    first, second = (each for each in site.reconciler.all())
    assert (first.state, second.state) == (OrderState.DISPATCHED, OrderState.DISPATCHED)
    assert "internal_error" in first.detail


async def test_what_a_restart_finds_on_its_way_out_is_verified_and_not_sent_again(store):
    clock = HandClock()
    sent = order(state=OrderState.DISPATCHING, dispatched_at=NOW, attempts=1, restore=restore_point())
    store.create_order(sent)
    async with running(store, clock) as site:
        clock.forward(seconds=10)
        await site.tick(m1=reading())
        assert site.states() == [("sleep", "dispatched", None)]
        await site.tick(m1=asleep())
        assert mac(1) in site.reconciler.standing()
        assert told(site) == []


async def asked(site, **changes):
    wanted = order(**{"state": OrderState.PROPOSED, "created_at": site.clock()} | changes)
    return await site.reconciler.order(wanted)


async def test_what_is_asked_again_because_nobody_answered_is_logged_once(site, lines):
    for _ in range(24):
        assert await asked(site)
        site.clock.forward(seconds=3660)
        await site.tick()
    told = [line.split()[1:3] for line in lines("event=order ")]
    assert told == [["state=proposed", "order=1"], ["state=expired", "order=1"]]
    other = await asked(site, reason="accumulated")
    await site.reconciler.withdraw(other)
    again = await asked(site, reason="accumulated")
    await site.reconciler.approve(again, "ann")
    assert [line.split()[1:3] for line in lines("event=order ")[2:]] == [
        ["state=proposed", f"order={other.order_id}"],
        ["state=expired", f"order={other.order_id}"],
        ["state=approved", f"order={again.order_id}"],
    ]


async def test_what_keeps_an_order_from_being_sent_is_told_once(store, lines):
    @asynccontextmanager
    async def refused(_):
        raise NotOursError("no more")
        yield

    limits = Ramp(machines=50, kw_per_min=500.0)
    async with Reconciler(
        DirectStore(store), [], clock=HandClock(), patience=Patience(), ramp=limits, sending=refused
    ) as reconciler:
        site = Site(reconciler, store, HandClock())
        await reconciler.order(order())
        for _ in range(5):
            await site.tick(m1=reading())
            await eventually(lambda: not reconciler._sending)
    assert len(lines("event=order_not_sent")) == 1
    assert site.drivers[1].commands == []


async def test_a_machine_whose_settings_cannot_be_read_is_not_put_to_sleep(site):
    class Mute(FakeDriver):
        async def restore_point(self):
            raise NoAnswer(self.address, "silent")

    site.drivers[1] = Mute(number=1)
    await site.reconciler.order(order())
    for _ in range(5):
        await site.tick(m1=reading())
    assert site.states() == [("sleep", "failed", "no_answer")]
    assert told(site) == []
