"""Steps of many orders share a transaction and a sync; each is stored whole or not at all, and hears only of itself."""

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agent.appraisal import Terms
from agent.errors import ContradictionError, StorageError
from agent.order_writer import OrderWriter
from agent.orders import Order, OrderState, Patience
from agent.reconciler import Ramp, Reconciler, Sighting
from agent.store import Store, StoreError
from agent.tenure import NotOursError
from drivers.reading import MachineId
from tests.agent.builders import (
    NOW,
    FakeDriver,
    HandClock,
    asleep,
    eventually,
    mac,
    machine,
    order,
    reading,
)

MACHINES = 20


class Thread:
    """The store's thread, which can be held up."""

    def __init__(self, path) -> None:
        self.executor = ThreadPoolExecutor(max_workers=1)
        self.store = self.executor.submit(Store, path).result()
        self.executor.submit(
            self.store.save_machines, [machine(n, reading()) for n in range(1, MACHINES + 1)], Terms()
        ).result()
        self.told: list[str] = []
        self.store._db.conn.set_trace_callback(self.told.append)
        self.kept: list[Order] = []
        self.writer = OrderWriter(
            self.store, self.executor, lambda error: StorageError(str(error)), self.kept.append
        )
        self.go_on = threading.Event()

    def hold(self) -> None:
        self.go_on.clear()
        self.executor.submit(self.go_on.wait)

    def transactions(self) -> int:
        return sum(each.startswith("COMMIT") for each in self.told)


@pytest.fixture
def thread(tmp_path):
    found = Thread(tmp_path / "db")
    yield found
    found.go_on.set()
    found.executor.submit(found.store.close).result()
    found.executor.shutdown()


async def together(thread, *steps):
    """What each step gives or raises, when all of them come while the thread is busy."""
    thread.hold()
    asked = [asyncio.ensure_future(step) for step in steps]
    await asyncio.sleep(0)
    thread.go_on.set()
    return await asyncio.gather(*asked, return_exceptions=True)


async def created(thread):
    new = [order(machine_id=MachineId(mac(n))) for n in range(1, MACHINES + 1)]
    return await thread.writer.create_all(new)


async def test_steps_that_come_together_are_written_together(thread):
    orders = await created(thread)
    thread.told.clear()
    sent = [replace(each, state=OrderState.DISPATCHING, dispatched_at=NOW) for each in orders]
    steps = [thread.writer.advance(one, other) for one, other in zip(orders, sent, strict=True)]
    assert await together(thread, *steps) == [None] * MACHINES
    assert thread.transactions() == 2  # the first, and what came while it was waiting
    assert thread.store.load_orders(NOW) == sent
    assert thread.kept == [*orders, *sent]


async def test_that_an_order_is_being_sent_is_synced_with_all_that_is_written_beside_it(thread):
    orders = await created(thread)
    thread.told.clear()
    quiet, loud = orders[:2], orders[2]
    states = [replace(each, state=OrderState.APPROVED, attempts=1) for each in quiet]
    dispatching = replace(loud, state=OrderState.DISPATCHING, dispatched_at=NOW)
    await together(
        thread,
        thread.writer.advance(quiet[0], states[0]),
        thread.writer.advance(quiet[1], states[1]),
        thread.writer.advance(loud, dispatching),
    )
    said = [each for each in thread.told if each.startswith(("PRAGMA", "BEGIN", "COMMIT"))]
    full, normal = "PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL"
    assert said == ["BEGIN", "COMMIT", full, "BEGIN", "COMMIT", normal]


async def test_a_step_that_was_overtaken_harms_none_beside_it(thread):
    orders = await created(thread)
    stale = replace(orders[1], attempts=7)
    ended = [replace(each, state=OrderState.EXPIRED, settled_at=NOW) for each in orders[:3]]
    first, second, third = await together(
        thread,
        thread.writer.advance(orders[0], ended[0]),
        thread.writer.advance_both((orders[2], ended[2]), (stale, ended[1])),
        thread.writer.create(order(machine_id=MachineId(mac(1)))),
    )
    assert first is None
    assert isinstance(second, StoreError)
    assert third.machine_id == mac(1)
    states = {each.order_id: each.state for each in thread.store.load_orders(NOW)}
    assert [states[each.order_id] for each in orders[:3]] == [OrderState.EXPIRED, *[OrderState.APPROVED] * 2]


async def test_a_step_that_contradicts_what_is_stored_harms_none_beside_it(thread):
    orders = await created(thread)
    confirmed = replace(orders[1], state=OrderState.CONFIRMED, confirmed_at=NOW, settled_at=NOW)
    await thread.writer.advance(orders[1], confirmed)
    twice = await thread.writer.create(order(machine_id=MachineId(mac(2))))
    ended = [replace(each, state=OrderState.EXPIRED, settled_at=NOW) for each in orders]
    first, second, third = await together(
        thread,
        thread.writer.advance(orders[0], ended[0]),
        thread.writer.advance(orders[2], ended[2]),
        thread.writer.advance(twice, replace(twice, state=OrderState.CONFIRMED, settled_at=NOW)),
    )
    assert (first, second) == (None, None)
    assert isinstance(third, ContradictionError)
    states = {each.order_id: each.state for each in thread.store.load_orders(NOW)}
    assert [states[each.order_id] for each in (*orders[:3], twice)] == [
        OrderState.EXPIRED,
        OrderState.CONFIRMED,
        OrderState.EXPIRED,
        OrderState.APPROVED,
    ]


async def test_an_order_whose_step_cannot_be_stored_holds_up_no_other(thread, lines):
    orders = (await created(thread))[:3]
    confirmed = replace(orders[0], state=OrderState.CONFIRMED, confirmed_at=NOW, settled_at=NOW)
    await thread.writer.advance(orders[0], confirmed)
    twice = await thread.writer.create(order(machine_id=MachineId(mac(1))))
    sent = [
        replace(each, state=OrderState.DISPATCHED, dispatched_at=NOW, attempts=1)
        for each in (twice, *orders[1:])
    ]
    for before, after in zip((twice, *orders[1:]), sent, strict=True):
        await thread.writer.advance(before, after)
    clock = HandClock()
    clock.forward(seconds=30)
    ramp = Ramp(machines=10, kw_per_min=1e9)
    async with Reconciler(thread.writer, sent, clock=clock, patience=Patience(), ramp=ramp) as reconciler:
        await reconciler.tick(
            {
                mac(n): Sighting(driver=FakeDriver(number=n), reading=asleep(began_at=clock()))
                for n in (1, 2, 3)
            }
        )
        assert {*reconciler.standing()} == {mac(2), mac(3)}
        assert {*reconciler.open_orders()} == {mac(1)}
    assert len(lines("event=order_step_refused")) == 1


async def test_where_the_disk_fails_everybody_hears_of_it_and_nothing_is_written(thread):
    orders = await created(thread)
    ended = [replace(each, state=OrderState.EXPIRED, settled_at=NOW) for each in orders[:3]]

    def fails(before, after):
        if before == orders[2]:
            raise sqlite3.OperationalError("disk is full")
        Store.advance(thread.store, before, after)

    thread.store.advance = fails
    heard = await together(
        thread, *[thread.writer.advance(o, e) for o, e in zip(orders[:3], ended, strict=True)]
    )
    assert heard[0] is None
    assert [str(each) for each in heard[1:]] == ["disk is full"] * 2
    assert thread.kept[MACHINES:] == [ended[0]]
    del thread.store.advance
    assert await together(
        thread, *[thread.writer.advance(o, e) for o, e in zip(orders[1:3], ended[1:], strict=True)]
    ) == [None, None]


async def test_what_nobody_waits_for_any_more_is_not_written(thread):
    orders = await created(thread)
    ended = [replace(each, state=OrderState.EXPIRED, settled_at=NOW) for each in orders[:2]]
    thread.hold()
    first = asyncio.ensure_future(thread.writer.advance(orders[0], ended[0]))
    second = asyncio.ensure_future(thread.writer.advance(orders[1], ended[1]))
    await asyncio.sleep(0)
    second.cancel()
    thread.go_on.set()
    await first
    await thread.writer.create_all([])
    states = {each.order_id: each.state for each in thread.store.load_orders(NOW)}
    assert states[orders[1].order_id] is OrderState.APPROVED


async def test_what_is_being_written_when_it_is_cancelled_is_known_to_all(thread):
    (first, *_) = await created(thread)
    ended = replace(first, state=OrderState.EXPIRED, settled_at=NOW)
    thread.hold()
    step = asyncio.ensure_future(thread.writer.advance(first, ended))
    await asyncio.sleep(0)
    step.cancel()
    await asyncio.sleep(0)
    assert not step.done()
    thread.go_on.set()
    await asyncio.wait([step])
    assert step.cancelled()
    assert thread.kept[-1] == ended
    assert thread.store.load_orders(NOW)[0] == ended


async def test_a_command_that_is_broken_off_while_it_is_being_stored_is_not_sent_and_remembered_as_stored(
    thread,
):
    limits, driver, clock = [], FakeDriver(), HandClock()

    @asynccontextmanager
    async def sending(_order):
        try:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                thread.hold()
                yield
        except TimeoutError as error:
            raise NotOursError("it ran out") from error

    async with Reconciler(
        thread.writer,
        [],
        clock=clock,
        patience=Patience(),
        ramp=Ramp(machines=9, kw_per_min=99.0),
        sending=sending,
    ) as reconciler:
        await reconciler.order(order(machine_id=MachineId(mac(1))))
        site = {MachineId(mac(1)): Sighting(driver=driver, reading=reading())}
        await reconciler.tick(site)
        await eventually(lambda: thread.writer._writing)
        limits[0].reschedule(0.0)
        await eventually(limits[0].expired)
        thread.go_on.set()
        await eventually(lambda: not reconciler._sending)
        (known,) = reconciler.all()
        assert [known] == await asyncio.to_thread(thread.store.load_orders, NOW)
        assert known.state is OrderState.DISPATCHING
        assert driver.commands == []
        await reconciler.tick(site)
        assert [each.state for each in reconciler.all()] == [OrderState.DISPATCHED]
