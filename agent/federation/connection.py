"""A connection to NATS: who we are to it, how it is kept up, and what may go wrong with it."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from agent.supervision import heed_cancel

log = logging.getLogger("hashcost")

FAILURES = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)
"""What a server, or the way to it, may do."""
CONNECT_WITHIN_S = 5
RECONNECT_AFTER_S = 2
PING_S = 10
RETRY_S = (1.0, 30.0)
"""Between two tries, twice as long each time."""
CLOSE_WITHIN_S = 5
"""For what is still on its way when a connection is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the servers are, and what opens them: files, whose content is in no message and no log. `name` is that of
    the site or the service; replies come to subjects of its own, so that nobody else need be allowed to listen."""

    addresses: tuple[str, ...]
    name: str
    creds_file: str | None = None
    nkey_file: str | None = None
    ca_file: str | None = None

    @property
    def wants_tls(self) -> bool:
        """Whether nothing is said to a server that does not talk TLS."""
        return self.ca_file is not None or any(each.startswith("tls:") for each in self.addresses)

    def options(self) -> dict[str, Any]:
        """As nats-py wants them."""
        found: dict[str, Any] = {
            "servers": list(self.addresses),
            "name": f"hashcost {self.name}",
            "inbox_prefix": f"_INBOX_{self.name}",
            "connect_timeout": CONNECT_WITHIN_S,
            "reconnect_time_wait": RECONNECT_AFTER_S,
            "max_reconnect_attempts": -1,
            "ping_interval": PING_S,
            "max_outstanding_pings": 2,
            "drain_timeout": CLOSE_WITHIN_S,
        }
        if self.creds_file is not None:
            found["user_credentials"] = self.creds_file
        if self.nkey_file is not None:
            found["nkeys_seed"] = self.nkey_file
        if self.wants_tls:
            found["tls"] = ssl.create_default_context(cafile=self.ca_file)
        return found


class Prompt(Client):
    """nats-py waits until a server has read what is on its way to it before it leaves it, also one that is stopped and
    never will: no other server is tried, and nothing ends. This one hangs up."""

    async def _attempt_reconnect(self) -> None:
        self._hang_up()
        await super()._attempt_reconnect()

    async def close(self) -> None:
        """Close, and raise nothing that would take the place of why. A server that does not read what is left in time
        does not get it."""
        late = asyncio.get_running_loop().call_later(CLOSE_WITHIN_S, self._hang_up)
        try:
            with suppress(OSError):
                await super().close()
        finally:
            late.cancel()
            self._hang_up()

    def _hang_up(self) -> None:
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


class TlsOnly(Prompt):
    """nats-py talks plain to a server that does not ask for TLS, whatever it was given; so would whoever stands in
    between have it. This one hangs up before it has said who it is, each time that it connects."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise nats.errors.Error("nats: the server does not talk TLS, and it is wanted")
        return super()._connect_command()


@asynccontextmanager
async def connected(
    servers: Servers, *, within_s: float | None = None, told: set[str] | None = None
) -> AsyncIterator[Client]:
    """A connection that comes back by itself, waited for as long as it takes or at most `within_s`. Raises one of
    `FAILURES`. `told` are the errors that were logged, also by connections before this one."""
    told = set() if told is None else told

    async def on_error(error: Exception) -> None:
        if str(error) not in told:  # once each; a server that is away says so every two seconds
            told.add(str(error))
            log.warning("event=nats_error detail=%r", str(error))

    async def on_reconnected() -> None:
        if told:
            log.info("event=nats_connected")
        told.clear()

    told_before = len(told)
    client = TlsOnly() if servers.wants_tls else Prompt()
    try:
        async with asyncio.timeout(within_s):
            await client.connect(**servers.options(), error_cb=on_error, reconnected_cb=on_reconnected)
        heed_cancel()
        if len(told) > told_before:
            log.info("event=nats_connected")
        yield client
    finally:
        await client.close()


class Contact:
    """Keeps work going that needs servers. `name` begins the events that tell, once each, that they cannot be reached
    and that they can again."""

    def __init__(self, servers: Servers, name: str) -> None:
        self._servers = servers
        self._name = name
        self._problem: str | None = None
        self._told: set[str] = set()
        self._wait_s = RETRY_S[0]

    async def keep(self, work: Callable[[Client], Awaitable[None]]) -> None:
        """Connect and work until cancelled. The work says `reached` whenever something came of it: nats-py may swallow
        that it was cancelled, with an answer that comes at that moment, and then it ends there."""
        while True:
            try:
                async with connected(self._servers, told=self._told) as client:
                    await work(client)
            except FAILURES as error:
                self.failed(error)
            heed_cancel()
            await self.wait()

    async def wait(self) -> None:
        """Before the next try."""
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, RETRY_S[1])

    def reached(self) -> None:
        """All is well. Raises `CancelledError` if the work is to end."""
        heed_cancel()
        self._wait_s = RETRY_S[0]
        if self._problem is not None:
            log.info("event=%s_reached", self._name)
            self._problem = None

    def failed(self, error: Exception) -> None:
        """It is not."""
        problem = f"{type(error).__name__}: {error}"
        if self._problem is None:
            log.warning("event=%s_unreachable detail=%r", self._name, problem)
        self._problem = problem
