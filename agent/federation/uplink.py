"""Sends what waits in the outbox, in order, until it has been taken; the agent never waits for it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from nats.aio.client import Client
from nats.js import JetStreamContext

from agent.federation.connection import FAILURES, Contact, Servers
from agent.federation.messages import subject
from agent.federation.outlet import Waiting, waiting

WINDOW = 64
"""Messages that are on their way at once."""
LOOK_EVERY_S = 0.5
ACKNOWLEDGED_WITHIN_S = 10.0
EPOCH, PREVIOUS, MESSAGE_ID = "Hashcost-Epoch", "Hashcost-Previous", "Nats-Msg-Id"
Take = Callable[[str, int], Awaitable[None]]


class Uplink:
    """From the outbox of one site to JetStream. `take` drops what has been taken, up to a sequence of an epoch."""

    def __init__(
        self,
        servers: Servers,
        database: Path,
        take: Take,
        *,
        org: str,
        site: str,
    ) -> None:
        self._contact = Contact(servers, "fleet")
        self._database = database
        self._take = take
        self._org, self._site = org, site

    async def run(self) -> None:
        """Send until cancelled. Servers that cannot be reached, or do not take anything, are told once."""
        await self._contact.keep(self._send_while_connected)

    async def _send_while_connected(self, client: Client) -> None:
        """Send until the client gives up, as it does on servers that know us no more."""
        stream = client.jetstream(timeout=ACKNOWLEDGED_WITHIN_S)
        while not client.is_closed:
            found = await asyncio.to_thread(waiting, self._database, WINDOW)
            if not found:
                await asyncio.sleep(LOOK_EVERY_S)
            elif (error := await self._send(stream, found)) is None:
                self._contact.reached()
            else:
                self._contact.failed(error)
                await self._contact.wait()

    async def _send(self, stream: JetStreamContext, messages: Sequence[Waiting]) -> Exception | None:
        """Send all, and drop the first of them that were taken, up to one that was not: it is sent again, with what
        follows it, and known by its id if it had arrived after all. Why it was not taken; None if all were."""
        async with asyncio.TaskGroup() as group:
            sent = [group.create_task(self._send_one(stream, message)) for message in messages]
        errors = [task.result() for task in sent]
        taken = next((index for index, error in enumerate(errors) if error is not None), len(errors))
        if taken:
            last = messages[taken - 1].place
            await self._take(last.epoch, last.sequence)
        return None if taken == len(errors) else errors[taken]

    async def _send_one(self, stream: JetStreamContext, message: Waiting) -> Exception | None:
        place = message.place
        headers = {MESSAGE_ID: place.message_id, EPOCH: place.epoch, PREVIOUS: str(place.previous)}
        try:
            await stream.publish(
                subject(self._org, self._site, message.kind), message.payload, headers=headers
            )
        except FAILURES as error:
            return error
        return None
