"""A connection to NATS: who we are to it, how it is kept up, and what may go wrong with it."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client

log = logging.getLogger("hashcost")

FAILURES = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)
"""What a server, or the way to it, may do."""
CONNECT_WITHIN_S = 5
RECONNECT_AFTER_S = 2
PING_S = 10
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


class TlsOnly(Client):
    """nats-py talks plain to a server that does not ask for TLS, whatever it was given; so would whoever stands in
    between have it. This one hangs up before it has said who it is, each time that it connects."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise nats.errors.Error("nats: the server does not talk TLS, and it is wanted")
        return super()._connect_command()


@asynccontextmanager
async def connected(servers: Servers, *, within_s: float | None = None) -> AsyncIterator[Client]:
    """A connection that comes back by itself, waited for as long as it takes or at most `within_s`. Raises one of
    `FAILURES`."""
    told: set[str] = set()

    async def on_error(error: Exception) -> None:
        if str(error) not in told:  # once each; a server that is away says so every two seconds
            told.add(str(error))
            log.warning("event=nats_error detail=%r", str(error))

    async def on_reconnected() -> None:
        told.clear()

    client = TlsOnly() if servers.wants_tls else Client()
    try:
        async with asyncio.timeout(within_s):
            await client.connect(**servers.options(), error_cb=on_error, reconnected_cb=on_reconnected)
        yield client
    finally:
        await client.close()
