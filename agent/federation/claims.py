"""Which of a site's machines are whose, where the site is cut into parts with an agent each: every machine is claimed
by one part, in a key-value bucket that all parts share.

A claim has no end: only the part that has it gives it back, and never while an order for the machine is open or it
sleeps on one. So nobody has to tell whether another part is alive, and one that was paused for however long still has
what it had. The number of a claim, its revision in the bucket, grows with every writing; before each command it has to
be written once more with the number that is known here, which servers refuse if anybody wrote meanwhile.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Set
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client

from agent.federation.bucket import Bucket, OvertakenError, claim_key, claims_in
from agent.federation.connection import FAILURES, Contact, Servers
from agent.orders import Order
from agent.policy import Reason
from agent.supervision import pause
from agent.tenure import NotOursError
from drivers.reading import MachineId

log = logging.getLogger("hashcost")

LOOK_EVERY_S = 60.0
CLAIMS_AT_ONCE = 50
_NOBODY = "machine.none"


class Claims:
    """See `agent.tenure.Parts`."""

    def __init__(self, servers: Servers, *, org: str, whole: str, part: str, replicas: int) -> None:
        self._contact = Contact(servers, "claims")
        self._org, self._whole, self._part, self._replicas = org, whole, part, replicas
        self._bucket: Bucket | None = None
        self._wanted: Set[MachineId] = frozenset()
        self._spared: Set[MachineId] = frozenset()
        self._told = asyncio.Event()
        self._poke = asyncio.Event()
        self._ours: dict[MachineId, int] = {}
        """The claims that are ours, with their numbers."""
        self._others: dict[MachineId, str] = {}
        """Those of other parts, and whose."""
        self._turns: defaultdict[MachineId, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held around a command, and while its machine's claim is written: it is never given back in between."""

    # -- the agent's side -----------------------------------------------------------------------------

    def want(self, wanted: Set[MachineId], spared: Set[MachineId]) -> None:
        """See `Parts`."""
        if not self._told.is_set() or (wanted, spared) != (self._wanted, self._spared):
            self._poke.set()
        self._wanted, self._spared = wanted, spared
        self._told.set()

    def stands_against(self, machine_id: MachineId) -> Reason | None:
        """See `Parts`."""
        if machine_id in self._others or machine_id not in self._wanted:
            return Reason.OTHER_PART
        return None if machine_id in self._ours else Reason.UNCLAIMED

    def as_data(self) -> dict[str, Any]:
        """See `Parts`."""
        return {
            "part_of": self._whole,
            "claimed_machines": len(self._ours),
            "machines_of_other_parts": len(self._others),
        }

    @asynccontextmanager
    async def sending(self, order: Order) -> AsyncIterator[None]:
        """See `Parts`."""
        async with self._turns[order.machine_id]:
            await self._confirm(order.machine_id)
            yield

    async def _confirm(self, machine_id: MachineId) -> None:
        bucket, number = self._bucket, self._ours.get(machine_id)
        if bucket is None or number is None:
            raise NotOursError("no claim of this part on the machine could be confirmed")
        try:
            await self._write_ours(bucket, machine_id, number)
        except OvertakenError as error:
            self._poke.set()
            raise NotOursError("the machine is another part's by now") from error
        except FAILURES as error:
            raise NotOursError(
                f"no claim of this part on the machine could be confirmed ({error})"
            ) from error

    async def _write_ours(self, bucket: Bucket, machine_id: MachineId, number: int) -> None:
        """Write our claim once more. Raises `OvertakenError` if it is another's, or nobody's, by now."""
        key = claim_key(machine_id)
        try:
            self._ours[machine_id] = await bucket.put(key, self._part, token=0, last=number)
        except OvertakenError:
            found = await bucket.find(key)
            if found is None or found.value != self._part:
                self._ours.pop(machine_id, None)
                raise
            # an answer was lost, or another agent of this part wrote it
            self._ours[machine_id] = await bucket.put(key, self._part, token=0, last=found.revision)

    # -- the servers' side ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Claim what is wanted, until cancelled; claims stay."""
        await self._contact.keep(self._work)

    async def _work(self, client: Client) -> None:
        bucket = await Bucket.open(client, org=self._org, site=self._whole, replicas=self._replicas)
        await self._told.wait()
        try:
            await self._look(bucket)
            self._bucket = bucket
            while not client.is_closed:
                self._poke.clear()
                await bucket.find(_NOBODY)  # raises where servers do not answer
                await self._step(bucket)
                self._contact.reached()
                await pause(self._poke, LOOK_EVERY_S)
        finally:
            self._bucket = None
            self._ours = {}

    async def _step(self, bucket: Bucket) -> None:
        if self._wanted - self._ours.keys():
            free = await self._look(bucket)
            missing = self._wanted - self._ours.keys() - self._others.keys()
            await self._each(
                missing, lambda machine_id: self._take(bucket, machine_id, free.get(machine_id, 0))
            )
        await self._each(self._spared & self._ours.keys(), lambda each: self._give_back(bucket, each))

    async def _look(self, bucket: Bucket) -> dict[MachineId, int]:
        """Find out whose everything is; the numbers of what is nobody's any more. The server that is asked may be
        behind the others: what it shows of a claim that we have written later is past. That it shows another as ours,
        or as nobody's, does no harm: a writing with that number is refused."""
        before = {*self._ours}
        shown = claims_in(await bucket.entries())
        found = {each: claim for each, claim in shown.items() if claim[1] >= self._ours.get(each, 0)}
        for machine_id, (part, number) in found.items():
            if part == self._part and machine_id not in before:
                self._ours[machine_id] = number
        self._others = {each: part for each, (part, _) in found.items() if part not in (None, self._part)}
        for machine_id in before & self._others.keys():
            self._ours.pop(machine_id, None)
        return {each: number for each, (part, number) in found.items() if part is None}

    async def _each(self, machine_ids: Iterable[MachineId], do: Callable[[MachineId], Any]) -> None:
        """Do it for each, some at once. Raises the first failure, when all that had begun have ended."""
        waiting = sorted(machine_ids)
        for start in range(0, len(waiting), CLAIMS_AT_ONCE):
            some = waiting[start : start + CLAIMS_AT_ONCE]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_failure_of(do(each))) for each in some]
            for task in tasks:
                if (error := task.result()) is not None:
                    raise error

    async def _take(self, bucket: Bucket, machine_id: MachineId, number: int) -> None:
        async with self._turns[machine_id]:
            self._ours[machine_id] = await bucket.put_or_create(
                claim_key(machine_id), self._part, token=0, last=number
            )

    async def _give_back(self, bucket: Bucket, machine_id: MachineId) -> None:
        async with self._turns[machine_id]:
            number = self._ours.get(machine_id)
            if number is None or machine_id not in self._spared:
                return
            del self._ours[machine_id]  # before it is said: nothing is sent on it any more
            await bucket.put(claim_key(machine_id), None, token=0, last=number)
        log.info("event=claim_given_back machine=%s part=%s", machine_id, self._part)


async def _failure_of(doing: Any) -> Exception | None:
    """How it ended; that somebody else was quicker shows when it is looked again."""
    try:
        await doing
    except OvertakenError:
        return None
    except FAILURES as error:
        return error
    return None
