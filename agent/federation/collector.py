"""Reads the stream of an organisation into the fleet's database, from where it left off, for as long as it lives."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from agent.database import StoreError
from agent.federation.connection import Contact, Servers
from agent.federation.fleet_database import Arrived, FleetDatabase
from agent.federation.messages import Place
from agent.federation.uplink import EPOCH, MESSAGE_ID, PREVIOUS

BATCH = 200
WAIT_S = 1.0
ACKNOWLEDGE_WITHIN_S = 30.0
ASK_AFTER = 20
"""After so many waits in which nothing came: whether the consumer is still there."""
MOST_PENDING = 5000
DOUBLES_WINDOW_S = 120.0
ANSWER_WITHIN_S = 10.0
T = TypeVar("T")
_NUMBER, _EPOCH = re.compile(r"[0-9]{1,15}"), re.compile(r"[0-9a-f]{1,64}")


def stream_of(org: str, *, replicas: int, megabytes: int, days: float) -> StreamConfig:
    """The stream of an organisation: a full one takes nothing more, and the sites keep it until it does."""
    return StreamConfig(
        name=f"HASHCOST-{org}",
        subjects=[f"hashcost.{org}.*.*"],
        num_replicas=replicas,
        max_bytes=megabytes * 1024 * 1024,
        max_age=days * 86_400,
        discard=DiscardPolicy.NEW,
        duplicate_window=DOUBLES_WINDOW_S,
        storage=StorageType.FILE,
    )


class Collector:
    """The service behind `hashcost fleet run`."""

    def __init__(self, servers: Servers, stream: StreamConfig, fleet: FleetDatabase) -> None:
        self._contact = Contact(servers, "stream")
        self._kept = Contact(servers, "fleet_database")
        self._stream = stream
        self._fleet = fleet

    async def run(self) -> None:
        """Read until cancelled; servers and a database that cannot be reached are told once."""
        while True:
            try:
                await self._contact.keep(self._read_while_connected)
            except StoreError as error:
                self._kept.failed(error)
                await self._kept.wait()

    async def _read_while_connected(self, client: Client) -> None:
        while not client.is_closed:
            await self._read(await self._subscribed(client))

    async def _subscribed(self, client: Client) -> JetStreamContext.PullSubscription:
        """A durable consumer of our own, from where our database has got to: that it was written is what counts."""
        stream = client.jetstream(timeout=ANSWER_WITHIN_S)
        try:
            info = await stream.stream_info(str(self._stream.name))
        except NotFoundError:
            info = await stream.add_stream(self._stream)
        start = await _in_a_thread(partial(self._fleet.begin, f"{info.config.name} of {info.created}"))
        durable = f"fleet-{self._fleet.state.fleet_id}"
        with contextlib.suppress(NotFoundError):
            await stream.delete_consumer(str(info.config.name), durable)
        await stream.add_consumer(
            str(info.config.name),
            ConsumerConfig(
                durable_name=durable,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=start,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACKNOWLEDGE_WITHIN_S,
                max_ack_pending=MOST_PENDING,
            ),
        )
        return await stream.pull_subscribe_bind(durable, str(info.config.name))

    async def _read(self, subscription: JetStreamContext.PullSubscription) -> None:
        """Read for as long as messages come as the stream has them. One that was lost on its way would come again after
        those that follow it, and undo them: then a new consumer has to begin where our database has got to."""
        delivered = silent = 0
        while True:
            try:
                messages = await subscription.fetch(BATCH, timeout=WAIT_S)
                silent = 0
            except TimeoutError:  # nothing came
                messages = []
                silent += 1
            in_order = list(
                takewhile(
                    lambda pair: pair[0] == pair[1].metadata.sequence.consumer,
                    enumerate(messages, delivered + 1),
                )
            )
            delivered += len(in_order)
            taken = [message for _, message in in_order]
            await _in_a_thread(partial(self._fleet.take, [_arrived(message) for message in taken]))
            self._kept.reached()
            await _acknowledge(taken)
            self._contact.reached()
            if len(taken) < len(messages):
                return
            if silent % ASK_AFTER == ASK_AFTER - 1 and await self._is_late(subscription, delivered):
                return

    @staticmethod
    async def _is_late(subscription: JetStreamContext.PullSubscription, delivered: int) -> bool:
        """Whether the server delivered more than came. Raises one of `FAILURES` if the consumer is gone."""
        info = await subscription.consumer_info()
        return info.delivered is not None and info.delivered.consumer_seq > delivered


async def _in_a_thread(do: Callable[[], T]) -> T:
    """Do it beside the event loop, to its end also when this is cancelled: whoever ends us closes the database then."""
    doing = asyncio.create_task(asyncio.to_thread(do))
    try:
        return await asyncio.shield(doing)
    finally:
        await asyncio.wait([doing])


async def _acknowledge(messages: Sequence[Msg]) -> None:
    for message in messages:
        await message.ack()


def _arrived(message: Msg) -> Arrived:
    return Arrived(
        stream_sequence=message.metadata.sequence.stream,
        subject=message.subject,
        place=_place(message.headers or {}),
        payload=message.data,
    )


def _place(headers: dict[str, str]) -> Place | None:
    """Where a message says that it stands; None if it does not, or says nonsense."""
    epoch, identity = headers.get(EPOCH, ""), headers.get(MESSAGE_ID, "")
    sequence, previous = identity.removeprefix(f"{epoch}."), headers.get(PREVIOUS, "")
    if not (_NUMBER.fullmatch(sequence) and _NUMBER.fullmatch(previous) and _EPOCH.fullmatch(epoch)):
        return None
    if int(previous) >= int(sequence):
        return None
    return Place(epoch=epoch, sequence=int(sequence), previous=int(previous))
