"""The lease on a site's machines, where agents stand by for one another: one commands, and only while it surely may.

An owner renews the lease every two seconds, and may command for `VALID_S` from the beginning of a renewal that the
servers took. Another takes it only after it has seen no renewal for `TAKE_AFTER_S` by its own clock: no two clocks are
compared. Before each command the order is with the servers, and a renewal that began after that has been taken: nobody
else has the lease at that moment. A process that is stopped in the midst of sending is ended by the kernel when its
lease is over, before it runs another instruction.
"""

import asyncio
import logging
import secrets
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from nats.aio.client import Client

from agent.federation.bucket import (
    Bucket,
    Entry,
    OvertakenError,
    Seen,
    Tenant,
    left_by,
    orders_as_value,
    orders_in,
    orders_key,
    setting_key,
    settings_in,
)
from agent.federation.connection import FAILURES, Contact, Servers
from agent.orders import Order
from agent.supervision import pause
from agent.tenure import Inheritance, NotOursError

log = logging.getLogger("hashcost")

RENEW_EVERY_S = 2.0
LOOK_EVERY_S = 1.0
VALID_S = 10.0
BREAK_OFF_S = 2.0
"""Commands under way are broken off so long before the lease is over."""
TAKE_AFTER_S = 15.0
CONFIRMED_WITHIN_S = 3.0
GIVEN_BACK_WITHIN_S = 4.0
WRITES_AT_ONCE = 50
MOST_SETTLED = 5
"""Of one machine's orders that have ended, so many of the last are kept for a successor."""


class Alarm(Protocol):
    """Ends this process at a time, whatever it does or does not do by then."""

    def set(self, within_s: float) -> None:
        """Instead of any earlier setting."""

    def clear(self) -> None:
        """Let it live."""


class KernelAlarm:
    """SIGALRM, left to its default action: a process that was stopped dies of it before it goes on."""

    def __init__(self) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def set(self, within_s: float) -> None:
        """See `Alarm`."""
        signal.setitimer(signal.ITIMER_REAL, max(within_s, 1e-6))

    def clear(self) -> None:
        """See `Alarm`."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def host_s() -> float:
    """Seconds of this host, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """See `agent.tenure.Tenure`. `changed` is called whenever the machines have become ours or another's."""

    def __init__(
        self,
        servers: Servers,
        *,
        org: str,
        site: str,
        agent: str,
        replicas: int,
        alarm: Alarm,
        changed: Callable[[], None],
        clock: Callable[[], float] = host_s,
    ) -> None:
        self.inheritance: Inheritance | None = None
        self._contact = Contact(servers, "lease")
        self._org, self._site, self._agent, self._replicas = org, site, agent, replicas
        self._instance = secrets.token_hex(8)
        self._alarm = alarm
        self._changed = changed
        self._clock = clock
        self._bucket: Bucket | None = None
        self._known = asyncio.Event()
        """An agent has opened its store: no other process of ours writes to it."""
        self._last_token = self._token = self._revision = 0
        self._ready = False
        self._valid_until_s = self._confirmed_from_s = float("-inf")
        self._seen: tuple[Seen | None, float] | None = None
        self._poke = asyncio.Event()
        self._news = asyncio.Condition()
        self._limits: set[asyncio.Timeout] = set()
        self._orders: dict[str, dict[int, Order]] = {}
        self._settings: dict[str, str] = {}
        self._last_order_id = 0
        self._revisions: dict[str, int] = {}
        self._unwritten: set[str] = set()
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # -- the agent's side -----------------------------------------------------------------------------

    @property
    def stands_by(self) -> bool:
        """See `Tenure`."""
        return self._token == 0

    @property
    def may_command(self) -> bool:
        """See `Tenure`."""
        return self._ready and self._left_s() > BREAK_OFF_S

    def begin(self, orders: Iterable[Order], settings: Mapping[str, str], *, token: int) -> None:
        """See `Tenure`."""
        self._last_token = token
        self._known.set()
        if self._token == 0 or token != self._token:
            return
        self._ready, self.inheritance = True, None
        self._orders, self._settings, self._unwritten = {}, {}, set()
        for order in orders:
            self.keep_order(order)
        for name, value in settings.items():
            self.keep_setting(name, value)

    def keep_order(self, order: Order) -> None:
        """See `Tenure`."""
        self._last_order_id = max(self._last_order_id, order.order_id)
        key = orders_key(order.machine_id)
        self._orders.setdefault(key, {})[order.order_id] = order
        self._later(key)

    def keep_setting(self, name: str, value: str) -> None:
        """See `Tenure`."""
        self._settings[setting_key(name)] = value
        self._later(setting_key(name))

    async def told(self, name: str) -> bool:
        """See `Tenure`."""
        key = setting_key(name)
        try:
            async with asyncio.timeout(CONFIRMED_WITHIN_S), self._news:
                await self._news.wait_for(lambda: self._is_written(key) or self._token == 0)
        except TimeoutError:
            return False
        return self._token != 0

    def _is_written(self, key: str) -> bool:
        return key not in self._unwritten and not self._writing[key].locked()

    def _later(self, key: str) -> None:
        self._unwritten.add(key)
        self._poke.set()

    def as_data(self) -> dict[str, Any]:
        """See `Tenure`."""
        holder = self._agent if self._token else self._seen and self._seen[0] and self._seen[0].tenant.agent
        return {
            "agent": self._agent,
            "stands_by": self.stands_by,
            "may_command": self.may_command,
            "holder": holder,
        }

    @asynccontextmanager
    async def sending(self, order: Order) -> AsyncIterator[None]:
        """See `Tenure`."""
        if not self.may_command:
            raise NotOursError("the lease on the machines cannot be renewed; they stay as they are")
        before = self._told(order)
        try:
            await self._tell(order)
            await self._confirm()
            async with self._limited():
                yield
        finally:
            if before is not None and self._told(order) is order:  # it was never stored as being sent
                self.keep_order(before)

    def _told(self, order: Order) -> Order | None:
        return self._orders.get(orders_key(order.machine_id), {}).get(order.order_id)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                self._set_limits()
                if not self.may_command:
                    raise NotOursError("the lease ran out before the command went")
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise NotOursError("the lease ran out while the command was under way") from error
        finally:
            self._limits.discard(limit)
            self._set_limits()

    async def _tell(self, order: Order) -> None:
        self.keep_order(order)
        try:
            await self._write(orders_key(order.machine_id))
        except (*FAILURES, OvertakenError) as error:
            raise NotOursError(f"no successor could be told of the order ({error})") from error

    async def _confirm(self) -> None:
        """Wait until a renewal has been taken that began after this was called. Raises `NotOursError`."""
        since_s = self._clock()
        try:
            async with asyncio.timeout(CONFIRMED_WITHIN_S), self._news:
                self._poke.set()
                await self._news.wait_for(lambda: self._confirmed_from_s >= since_s or self._token == 0)
        except TimeoutError as error:
            raise NotOursError("the lease could not be confirmed") from error
        if not self.may_command:  # nothing has begun that this process would have to be ended for
            raise NotOursError("the lease was lost, or ran out, before the command went")

    # -- time -----------------------------------------------------------------------------------------

    def _left_s(self) -> float:
        return self._valid_until_s - self._clock()

    def _set_limits(self) -> None:
        """When what is under way has to end, and this process with it should it not."""
        if not self._limits:
            self._alarm.clear()
            return
        while True:
            began_s = self._clock()
            self._alarm.set(self._left_s())
            if self._clock() - began_s < 1.0:  # else we were stopped here, and it goes off that much late
                break
        ends_at = asyncio.get_running_loop().time() + self._left_s() - BREAK_OFF_S
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(ends_at)

    def _confirmed(self, began_s: float) -> None:
        self._valid_until_s, self._confirmed_from_s = began_s + VALID_S, began_s
        if self._limits:
            self._set_limits()

    # -- the servers' side ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Have the lease, or wait for it, until cancelled; then give it back."""
        await self._contact.keep(self._work)

    async def _work(self, client: Client) -> None:
        bucket = await Bucket.open(client, org=self._org, site=self._site, replicas=self._replicas)
        await self._known.wait()
        self._bucket = bucket
        try:
            while not client.is_closed:
                self._poke.clear()
                await self._step(bucket)
                self._contact.reached()
                async with self._news:
                    self._news.notify_all()
                await pause(self._poke, RENEW_EVERY_S if self._token else LOOK_EVERY_S)
        except asyncio.CancelledError:
            await self._give_back(bucket)
            raise
        finally:
            self._bucket = None

    async def _step(self, bucket: Bucket) -> None:
        if self._token == 0:
            await self._look(bucket)
            return
        await self._renew(bucket)
        if self._ready:
            await self._write_some()

    async def _look(self, bucket: Bucket) -> None:
        """Take the lease once it may be taken."""
        found = await bucket.lease()
        if self._seen is None or found != self._seen[0]:
            self._seen = found, self._clock()
        ours = found is not None and found.token == self._last_token
        free = found is not None and found.tenant.released
        if ours or free or self._clock() - self._seen[1] >= TAKE_AFTER_S:
            await self._take(bucket, found)

    async def _take(self, bucket: Bucket, before: Seen | None) -> None:
        began_s = self._clock()
        last_order_id = 0 if before is None else before.tenant.last_order_id
        claim = Tenant(agent=self._agent, instance=self._instance, last_order_id=last_order_id)
        try:
            revision = await bucket.claim(claim, last=0 if before is None else before.revision)
        except OvertakenError:  # another was quicker
            return
        found = await bucket.entries(until=revision)
        self._revisions = {entry.key: entry.revision for entry in found}
        self.inheritance = self._inherit(before, found, revision)
        self._last_order_id = last_order_id
        self._revision = self._token = revision
        self._confirmed(began_s)
        log.warning(
            "event=lease_taken agent=%s token=%d before=%s",
            self._agent, revision, "-" if before is None else before.tenant.agent,
        )  # fmt: skip
        self._changed()

    def _inherit(self, before: Seen | None, found: Iterable[Entry], token: int) -> Inheritance:
        """What the agent before left; nothing where that was ourselves, since our own store knows better."""
        if before is None or before.token == self._last_token:
            return Inheritance(token=token)
        left = left_by(found, before.token)
        return Inheritance(
            token=token,
            orders=orders_in(left),
            settings=settings_in(left),
            first_order_id=before.tenant.last_order_id + 1,
        )

    async def _renew(self, bucket: Bucket) -> None:
        began_s = self._clock()
        tenant = Tenant(
            agent=self._agent, instance=self._instance, token=self._token, last_order_id=self._last_order_id
        )
        try:
            self._revision = await bucket.claim(tenant, last=self._revision)
        except OvertakenError:
            found = await bucket.lease()
            if found is not None and found.token == self._token:  # the answer to an earlier renewal was lost
                self._revision = found.revision
                self._poke.set()
            else:
                self._lose(found)
            return
        self._confirmed(began_s)

    def _lose(self, found: Seen | None) -> None:
        log.warning(
            "event=lease_lost agent=%s token=%d holder=%s",
            self._agent, self._token, "-" if found is None else found.tenant.agent,
        )  # fmt: skip
        self._token, self._ready, self.inheritance, self._seen = 0, False, None, None
        self._valid_until_s = float("-inf")
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(0.0)
        self._changed()

    async def _give_back(self, bucket: Bucket) -> None:
        """Whoever stands by need not wait."""
        if self._token == 0 or self._limits:
            return
        tenant = Tenant(
            agent=self._agent, instance=self._instance, token=self._token,
            last_order_id=self._last_order_id, released=True,
        )  # fmt: skip
        self._ready = False
        try:
            async with asyncio.timeout(GIVEN_BACK_WITHIN_S):
                while self._unwritten:
                    await self._write_some()
                await bucket.claim(tenant, last=self._revision)
        except (*FAILURES, OvertakenError) as error:
            log.warning("event=lease_not_given_back detail=%r", str(error))
            return
        log.info("event=lease_given_back agent=%s", self._agent)

    # -- what a successor has to know -----------------------------------------------------------------

    async def _write_some(self) -> None:
        """Write what changed, some of it at once; the rest in the next step, which is then not waited for."""
        keys = [key for key, _ in zip(self._unwritten, range(WRITES_AT_ONCE), strict=False)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._write_or_fail(key)) for key in keys]
        errors = [error for task in tasks if (error := task.result()) is not None]
        if errors:
            raise errors[0]
        if self._unwritten:
            self._poke.set()

    async def _write_or_fail(self, key: str) -> Exception | None:
        try:
            await self._write(key)
        except OvertakenError:
            return None  # the next renewal finds out
        except FAILURES as error:
            return error
        return None

    async def _write(self, key: str) -> None:
        """Raises `OvertakenError` if a later tenure has written there."""
        async with self._writing[key]:
            bucket, token = self._bucket, self._token
            if bucket is None or token == 0:
                raise OvertakenError(key)
            self._unwritten.discard(key)
            if key not in self._settings and key not in self._orders:  # an agent began anew, without it
                return
            try:
                last = self._revisions.get(key, 0)
                try:
                    revision = await bucket.put(key, self._value(key), token=token, last=last)
                except OvertakenError:
                    found = await bucket.find(key)
                    if found is not None and found.token > token:
                        raise
                    # one that had been relieved wrote there, or an answer was lost
                    last = 0 if found is None else found.revision
                    revision = await bucket.put(key, self._value(key), token=token, last=last)
            except BaseException:
                self._unwritten.add(key)
                raise
            self._revisions[key] = revision

    def _value(self, key: str) -> Any:
        if key in self._settings:
            return self._settings[key]
        known = self._orders[key]
        settled = [number for number, order in known.items() if not order.is_open and not order.is_standing]
        for number in settled[:-MOST_SETTLED]:
            del known[number]
        return orders_as_value(list(known.values()))
