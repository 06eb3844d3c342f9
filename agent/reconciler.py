"""Keeps making the world match the orders: dispatches, confirms by later readings, retries, gives up, restores.

Every transition is stored before what it allows is done. A command is sent only for an order that is `dispatching`
in the store, and only a reading that began after that moment counts for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakValueDictionary

from agent.errors import ContradictionError, StorageError
from agent.orders import (
    POLICY,
    Order,
    OrderAction,
    OrderState,
    Patience,
    Step,
    Verdict,
    due_by,
    has_drifted,
    next_step,
)
from agent.policy import Reason
from agent.tenure import Alone, NotOursError
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    Driver,
    DriverError,
    Receipt,
    RestorePoint,
    Timings,
    Unsupported,
    WrongMachine,
)
from drivers.reading import MachineId, PowerMode, Reading, RunState

log = logging.getLogger("hashcost")

LONG_ON_ITS_WAY = timedelta(seconds=60)
COMMANDS_AT_ONCE = 250
"""Each holds a socket until its machine has answered, a stock Antminer up to 21 s: this is how fast a big site is told.
Many more would make each other late where a command costs much CPU, as a login over SSH does."""
_FINAL = (CommandRefused, Unsupported, AuthenticationFailed, WrongMachine)
"""Failures that the next try would only repeat."""
GIVE_UP_FOR = timedelta(hours=6)
REMEMBER = timedelta(days=1)
REJECTED = "rejected"
"""Failure of an order that a person refused."""
INTERNAL_ERROR = "internal_error"
"""Kind of a failure that is a fault of hashcost, not of the machine."""


class _Overtaken(Exception):  # noqa: N818 - says what happened
    """Somebody else has taken the order a step further meanwhile: what was to be done is not to be done any more."""


class OrderStore(Protocol):
    """Where orders outlive the process; each call is one transaction."""

    async def create(self, order: Order) -> Order | None:
        """Store a new order; None if the machine has an open one."""

    async def create_all(self, orders: Sequence[Order]) -> list[Order | None]:
        """The same for many at once."""

    async def advance(self, before: Order, after: Order) -> None:
        """Replace `before` by `after` if it is still as it was."""

    async def supersede(self, before: Order, after: Order, new: Order) -> Order:
        """Advance one and create another at once."""

    async def advance_both(self, first: tuple[Order, Order], second: tuple[Order, Order]) -> None:
        """Advance two at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A machine for the reconciler: how to speak to it, and its latest usable reading, if there is one."""

    driver: Driver
    reading: Reading | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """How much load may be moved in each direction within a minute of the machines' time."""

    machines: int
    kw_per_min: float


class Reconciler:
    """The orders of one site. `orders` are those that the store remembers.

    An async context manager: commands are sent by tasks of its own, so that a machine which takes long to answer
    holds up neither the polling nor the others. Leaving it drops what is under way, and what was being sent stays
    `dispatching` in the store, to be verified by the next start.
    """

    def __init__(
        self,
        store: OrderStore,
        orders: Iterable[Order],
        *,
        clock: Callable[[], datetime],
        patience: Patience,
        ramp: Ramp,
        sending: Callable[[Order], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self._sending_one = sending or Alone().sending
        """Around each command, with its order as it is to be stored; refuses with `NotOursError`."""
        self._store = store
        self._clock = clock
        self._patience = patience
        self._ramp = ramp
        self.held = False
        """Nothing is sent while it is set; what was sent is confirmed all the same."""
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._hindered: set[int] = set()
        """Orders of which it was told that they could not be sent."""
        self._timings: dict[MachineId, Timings] = {}
        self._slots = asyncio.Semaphore(COMMANDS_AT_ONCE)
        self._turns: WeakValueDictionary[MachineId, asyncio.Lock] = WeakValueDictionary()
        """Of each machine, held while a step of its orders is stored, so that in memory they are never behind the
        store. Steps of several machines are stored together."""
        self._group = asyncio.TaskGroup()
        self._orders: dict[int, Order] = {}
        self._of: dict[MachineId, dict[int, Order]] = {}
        """The same by machine."""
        for order in orders:
            self._keep(order)
        self._began_at = clock()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._sending.values():
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    # -- what is known --------------------------------------------------------------------------------

    def all(self) -> list[Order]:
        """Every open or standing order, and those that ended within a day."""
        return list(self._orders.values())

    def open_orders(self) -> dict[MachineId, Order]:
        """The open order of each machine that has one."""
        return {order.machine_id: order for order in self._orders.values() if order.is_open}

    def due_by(self, order: Order) -> datetime | None:
        """Until when an open order has time, as far as that is known."""
        return due_by(order, self._timings.get(order.machine_id), self._patience)

    def standing(self) -> dict[MachineId, Order]:
        """The machines that sleep on our order: the only ones that are ours to wake."""
        return {order.machine_id: order for order in self._orders.values() if order.is_standing}

    def given_up(self) -> set[tuple[MachineId, OrderAction]]:
        """What failed so lately that only a person may try it again."""
        return self._settled_lately(lambda order: order.state is OrderState.FAILED)

    def rejected(self) -> set[tuple[MachineId, OrderAction]]:
        """What a person refused so lately that they are not to be asked again."""
        return self._settled_lately(lambda order: order.failure == REJECTED)

    def _settled_lately(self, which: Callable[[Order], bool]) -> set[tuple[MachineId, OrderAction]]:
        limit = self._clock() - GIVE_UP_FOR
        return {
            (order.machine_id, order.action)
            for order in self._orders.values()
            if which(order) and order.settled_at is not None and order.settled_at > limit
        }

    def in_doubt(self) -> dict[MachineId, Order]:
        """Machines that may sleep because of us: a sleep was sent and given up for want of evidence, lately. They are
        not ours to wake, but a person may say that they are."""
        found: dict[MachineId, Order] = {}
        for order in self._orders.values():
            if order.action is not OrderAction.WAKE:
                found.pop(order.machine_id, None)
            if (
                order.action is OrderAction.SLEEP
                and order.state is OrderState.FAILED
                and order.restore is not None
            ):
                found[order.machine_id] = order
        return found

    def in_hands(self) -> set[MachineId]:
        """Machines that a person put to sleep, or woke so lately that they are to be left alone."""
        limit = self._clock() - GIVE_UP_FOR
        return {
            order.machine_id
            for order in self._orders.values()
            if order.reason == Reason.OPERATOR
            and (order.is_standing or (order.settled_at is not None and order.settled_at > limit))
        }

    # -- what people and policy want ------------------------------------------------------------------

    async def order(self, wanted: Order) -> Order | None:
        """Take an order on, proposed or approved; None if the machine has an open one already, or should sleep on an
        order of ours as it is: then it has drifted, and is put back."""
        if self._should_sleep_already(wanted):
            return None
        return self._taken_on(await self._store.create(wanted))

    async def order_all(self, wanted: Iterable[Order]) -> list[Order | None]:
        """The same for many at once: one outcome an order that is not to sleep already."""
        new = [order for order in wanted if not self._should_sleep_already(order)]
        return [self._taken_on(created) for created in await self._store.create_all(new)] if new else []

    def adopt(self, order: Order) -> None:
        """An order of another agent, whose machine has been found only now: it is verified like those of a start."""
        self._began_at = self._clock()
        self._keep(order)
        self._log(order)

    def _should_sleep_already(self, wanted: Order) -> bool:
        return wanted.action is not OrderAction.WAKE and self._asleep_on(wanted.machine_id) is not None

    def _taken_on(self, created: Order | None) -> Order | None:
        if created is not None:
            self._keep(created)
            self._log(created)
        return created

    async def approve(self, order: Order, by: str) -> Order:
        """A person agrees to a proposal. What became of it, if it is not open to that any more."""
        try:
            return await self._advance(order, state=OrderState.APPROVED, ordered_by=by)
        except _Overtaken:
            return self._orders[order.order_id]

    async def reject(self, order: Order, by: str) -> Order:
        """A person refuses a proposal, or stops an order that was not sent yet, and is not asked again for some hours.
        What became of it, if it was sent."""
        try:
            return await self._end(order, OrderState.EXPIRED, failure=REJECTED, detail=f"rejected by {by}")
        except _Overtaken:
            return self._orders[order.order_id]

    async def withdraw(self, order: Order) -> None:
        """An order that was not sent is wanted no more."""
        with suppress(_Overtaken):
            await self._end(order, OrderState.EXPIRED, detail="wanted no more")

    # -- the work -------------------------------------------------------------------------------------

    async def tick(self, site: Mapping[MachineId, Sighting]) -> None:
        """Bring every order one step further. Dispatches run side by side, one a machine."""
        self._forget()
        self._timings = {machine_id: sighting.driver.timings for machine_id, sighting in site.items()}
        for order in self.standing().values():
            sighting = site.get(order.machine_id)
            if sighting is not None and has_drifted(order, sighting.reading):
                with _by_itself(order):
                    await self._put_back(order)
        due = []
        for order_id in [order.order_id for order in self.open_orders().values()]:
            # as it is now, not as it was: commands under way go on while steps of others are stored
            order = self._orders[order_id]
            sighting = site.get(order.machine_id)
            if sighting is None or order_id in self._sending:
                continue
            with _by_itself(order):
                if await self._settle(order, sighting):
                    due.append(order)
        for order in [] if self.held else self._within_ramp(due):
            task = self._group.create_task(self._dispatch(order, site[order.machine_id].driver))
            self._sending[order.order_id] = task

    def _within_ramp(self, due: list[Order]) -> list[Order]:
        """The commands that may go now: second tries too, for the load that the first did not move."""
        since = self._clock() - timedelta(minutes=1)
        waiting = {order.order_id for order in due}
        allowed = []
        for action in OrderAction:
            moved = [
                order.power_w / 1000
                for order in self._orders.values()
                if order.action is action
                and order.order_id not in waiting
                and self._moves_since(order, since)
            ]
            machines, kw = len(moved), sum(moved)
            for order in due:
                if order.action is not action:
                    continue
                machines, kw = machines + 1, kw + order.power_w / 1000
                if machines > self._ramp.machines or (machines > 1 and kw > self._ramp.kw_per_min):
                    break  # but for a machine that is more than a minute's worth, which goes by itself
                allowed.append(order)
        return allowed

    def _moves_since(self, order: Order, since: datetime) -> bool:
        """Its command went out since then, or is about to: a machine may take long to say how it is set."""
        if order.dispatched_at is None:
            return order.order_id in self._sending
        return order.dispatched_at > since

    async def _settle(self, order: Order, sighting: Sighting) -> bool:
        """Take the step that needs no command; whether a command is due."""
        verdict = next_step(
            order,
            sighting.reading,
            now=self._clock(),
            timings=sighting.driver.timings,
            patience=self._patience,
        )
        match verdict.step:
            case Step.VERIFY:
                await self._advance(
                    order,
                    state=OrderState.DISPATCHED,
                    # one try is left: what may never have been sent does not prove that a machine disobeys
                    attempts=min(order.attempts, self._patience.attempts - 1),
                    detail="may have been sent before a restart",
                )
            case Step.CONFIRM:
                await self._confirm(order, verdict)
            case Step.FAIL if self._may_still_speak(order, sighting.reading):
                pass
            case Step.FAIL:
                await self._end(order, OrderState.FAILED, failure=verdict.failure, detail=verdict.detail)
            case Step.EXPIRE:
                await self._end(order, OrderState.EXPIRED, detail=verdict.detail)
            case _:
                pass
        return verdict.step is Step.DISPATCH

    def _may_still_speak(self, order: Order, reading: Reading | None) -> bool:
        """Whether a machine has not said what it does, for too short a time to be given up: it may well do what it was
        told, and is ours to wake only as long as its order is not failed."""
        if order.state is not OrderState.DISPATCHED:
            return False
        if reading is not None and reading.run_state is not RunState.UNKNOWN:
            return False
        since = max(self._began_at, order.dispatched_at or self._began_at)
        return self._clock() - since < self._patience.approval

    async def _dispatch(self, order: Order, driver: Driver) -> None:
        try:
            async with self._slots:
                if not self.held:  # it may have waited long for its turn
                    await self._send(order, driver)
        except _Overtaken:
            log.info("event=order_overtaken order=%d machine=%s", order.order_id, order.machine_id)
        except NotOursError as error:
            self._tell_hindered("order_not_sent", order, error)
        except StorageError as error:  # what could not be recorded was not sent; what was sent is verified
            self._tell_hindered("order_not_recorded", order, error)
        finally:
            self._sending.pop(order.order_id, None)

    def _tell_hindered(self, event: str, order: Order, error: Exception) -> None:
        """Once an order, however often it is tried."""
        if order.order_id not in self._hindered:
            log.warning(
                "event=%s order=%d machine=%s detail=%r", event, order.order_id, order.machine_id, str(error)
            )
        self._hindered.add(order.order_id)

    async def _send(self, order: Order, driver: Driver) -> None:
        """Send one command: what to restore is stored first, then that it is being sent, then it is sent."""
        try:
            point = order.restore or await driver.restore_point()
        except DriverError as error:
            await self._not_sent(order, error)
            return
        except Exception as error:  # a fault of ours with one machine must not stop the others
            log.exception("event=driver_fault machine=%s", order.machine_id)
            await self._end(order, OrderState.FAILED, failure=INTERNAL_ERROR, detail=repr(error))
            return
        if self.held:  # asking took its time
            return
        going = replace(
            order,
            state=OrderState.DISPATCHING,
            dispatched_at=self._clock(),
            attempts=order.attempts + 1,
            restore=point,
        )
        async with self._sending_one(going):
            await self._send_now(order, going, driver, point)

    async def _send_now(self, order: Order, going: Order, driver: Driver, point: RestorePoint) -> None:
        if self.held:  # asking for leave took its time
            return
        sent = await self._replace(order, replace(going, dispatched_at=self._clock()))
        await asyncio.sleep(0)  # one that was broken off while it was being stored ends here
        await self._command(sent, driver, point)

    async def _command(self, sent: Order, driver: Driver, point: RestorePoint) -> None:
        """Say it to the machine, and keep what it answered."""
        try:
            receipt = await _command(sent, driver, point)
        except DriverError as error:
            await self._not_sent(sent, error)
            return
        except Exception as error:
            log.exception("event=driver_fault machine=%s", sent.machine_id)
            await self._advance(sent, state=OrderState.DISPATCHED, detail=f"{INTERNAL_ERROR}: {error!r}")
            return
        await self._advance(
            sent,
            state=OrderState.DISPATCHED,
            dispatched_at=self._sent_at(sent),
            detail=f"{receipt.said.value}: {receipt.detail}",
        )

    def _sent_at(self, sent: Order) -> datetime | None:
        """When a command counts as sent that the machine has answered now: if it was long on its way, because this
        process or this host stood still, the machine has its time from now on."""
        began, now = sent.dispatched_at, self._clock()
        return now if began is not None and now - began > LONG_ON_ITS_WAY else began

    async def _not_sent(self, order: Order, error: DriverError) -> None:
        """The machine certainly did not accept it: final if it would say the same again, else another time."""
        attempts = max(1, order.attempts) if order.state is OrderState.DISPATCHING else order.attempts + 1
        if isinstance(error, _FINAL) or attempts > self._patience.attempts:
            await self._end(order, OrderState.FAILED, failure=error.kind, detail=error.detail)
            return
        await self._advance(order, state=OrderState.APPROVED, attempts=attempts, detail=str(error))

    async def _confirm(self, order: Order, verdict: Verdict) -> None:
        """Confirmed by a reading. A wake releases the sleep that it ends, in the same transaction."""
        now = self._clock()
        after = replace(
            order,
            state=OrderState.CONFIRMED,
            confirmed_at=now,
            settled_at=now,
            detail=verdict.detail or order.detail,
        )
        async with self._step(order):
            asleep = self._asleep_on(order.machine_id) if order.action is OrderAction.WAKE else None
            if asleep is None:
                await self._store.advance(order, after)
            else:
                released = replace(asleep, state=OrderState.RELEASED, settled_at=self._clock())
                await self._store.advance_both((order, after), (asleep, released))
                self._keep(released)
            self._keep(after)
        self._log(after)

    async def _put_back(self, order: Order) -> None:
        """A machine left its sleep by itself: order it again, a few times; then it is a person's."""
        if order.machine_id in self.open_orders():
            return
        if self._was_to_wake(order):
            await self._end(order, OrderState.RELEASED, detail="it woke after all")
            return
        if order.drifts >= self._patience.drifts:
            await self._end(
                order,
                OrderState.FAILED,
                failure="fights_back",
                detail=f"woke by itself {order.drifts + 1} times",
            )
            return
        now = self._clock()
        released = replace(order, state=OrderState.RELEASED, settled_at=now, detail="it woke by itself")
        again = replace(
            order,
            state=OrderState.APPROVED,
            reason="drift",
            created_at=now,
            dispatched_at=None,
            confirmed_at=None,
            settled_at=None,
            attempts=0,
            drifts=order.drifts + 1,
            detail="",
        )
        async with self._step(order):
            created = await self._store.supersede(order, released, again)
            self._keep(released)
            self._keep(created)
        self._log(created)

    def _was_to_wake(self, asleep: Order) -> bool:
        """A wake of this sleep was sent, or failed: that the machine mines now is what was wanted, and no drift."""
        return any(
            order.machine_id == asleep.machine_id
            and order.action is OrderAction.WAKE
            and asleep.confirmed_at is not None
            and order.created_at >= asleep.confirmed_at
            and (order.dispatched_at is not None or order.state is OrderState.FAILED)
            for order in self._orders.values()
        )

    @asynccontextmanager
    async def _step(self, order: Order) -> AsyncIterator[None]:
        """One order's next step is being stored. Raises `_Overtaken` if it is not as it was when that was decided."""
        turn = self._turns.setdefault(order.machine_id, asyncio.Lock())
        async with turn:
            if self._orders.get(order.order_id) is not order:
                raise _Overtaken
            yield

    async def _advance(self, order: Order, **changes: object) -> Order:
        return await self._replace(order, replace(order, **changes))  # type: ignore[arg-type]

    async def _replace(self, order: Order, after: Order) -> Order:
        async with self._step(order):
            await self._store.advance(order, after)
            self._keep(after)
        if after.state is not order.state:
            self._log(after)
        return after

    async def _end(
        self, order: Order, state: OrderState, *, failure: str | None = None, detail: str = ""
    ) -> Order:
        return await self._advance(
            order, state=state, settled_at=self._clock(), failure=failure, detail=detail or order.detail
        )

    def _keep(self, order: Order) -> None:
        """Have an order in memory as it is in the store now."""
        self._orders[order.order_id] = order
        self._of.setdefault(order.machine_id, {})[order.order_id] = order

    def _asleep_on(self, machine_id: MachineId) -> Order | None:
        """The order that a machine sleeps on, as in `standing`."""
        standing = [order for order in self._of.get(machine_id, {}).values() if order.is_standing]
        return standing[-1] if standing else None

    def _log(self, order: Order) -> None:
        """One line a transition; none for what is asked again, or given up again, that was given up before it was sent:
        it comes round every hour for as long as nobody answers."""
        if _is_unsent(order) and self._was_given_up_before(order):
            return
        level = logging.WARNING if order.state is OrderState.FAILED else logging.INFO
        log.log(
            level,
            "event=order state=%s order=%d machine=%s action=%s reason=%s by=%s failure=%s detail=%r",
            order.state.value, order.order_id, order.machine_id, order.action.value, order.reason, order.ordered_by,
            order.failure or "-", order.detail,
        )  # fmt: skip

    def _was_given_up_before(self, order: Order) -> bool:
        earlier = [each for each in self._of[order.machine_id].values() if each.order_id < order.order_id]
        last = max(earlier, key=lambda each: each.order_id, default=None)
        return (
            last is not None
            and last.state is OrderState.EXPIRED
            and _is_unsent(last)
            and _what(last) == _what(order)
        )

    def _forget(self) -> None:
        """Drop what ended long ago; the store keeps it."""
        limit = self._clock() - REMEMBER
        for order in list(self._orders.values()):
            over = not order.is_open and not order.is_standing
            if over and order.settled_at is not None and order.settled_at < limit:
                del self._orders[order.order_id]
                del self._of[order.machine_id][order.order_id]
                self._hindered.discard(order.order_id)


@contextmanager
def _by_itself(order: Order) -> Iterator[None]:
    """A step of one order that harms none of the others if it is not to be done any more, or cannot be stored."""
    try:
        yield
    except _Overtaken:
        pass
    except ContradictionError as error:
        log.error("event=order_step_refused order=%d detail=%r", order.order_id, str(error))  # noqa: TRY400 - it is known where


def _command(order: Order, driver: Driver, point: RestorePoint) -> Awaitable[Receipt]:
    if order.action is OrderAction.SLEEP:
        return driver.sleep()
    if order.action is OrderAction.WAKE:
        return driver.wake(point)
    assert order.target_mode is not None  # noqa: S101 - an order to set a mode has one
    return driver.set_power_mode(order.target_mode)


def _what(order: Order) -> tuple[OrderAction, str, PowerMode | None]:
    return order.action, order.reason, order.target_mode


def _is_unsent(order: Order) -> bool:
    """The policy's own, which nobody has approved, refused or sent."""
    return (
        order.ordered_by == POLICY
        and order.state in (OrderState.PROPOSED, OrderState.APPROVED, OrderState.EXPIRED)
        and order.failure is None
        and not order.attempts
    )
