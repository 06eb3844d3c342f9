"""A broker of MQTT; and topics of it, kept subscribed for as long as the agent lives."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from agent.fetch import SourceError, pause_s

if TYPE_CHECKING:
    from aiomqtt import Client, Will

MISSING = "needs aiomqtt, which is not installed: pip install 'hashcost[mqtt]'"
LIMIT_BYTES = 64 * 1024
RETRY_S, LONGEST_RETRY_S = 2.0, 60.0
BEAT_S = 20.0
KEEPALIVE_S = 15
TIMEOUT_S = 10.0
MOST_QUEUED = 1000
REFUSED = 0x80
"""Codes of a subscription from here on are refusals."""


class MqttRefusedError(Exception):
    """The broker lets us in, and does not let us hear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where a broker is, and who we are to it."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None

    @property
    def address(self) -> str:
        """As an address, without a password."""
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"

    def client(self, *, will: "Will | None" = None) -> "Client":
        """A client of it: it connects when it is entered, and the broker says its `will` when it is gone."""
        import aiomqtt  # noqa: PLC0415 - an extra

        return aiomqtt.Client(
            self.host,
            self.port,
            username=self.username,
            password=self.password,
            tls_params=aiomqtt.TLSParameters(ca_certs=self.ca_file) if self.tls else None,
            keepalive=KEEPALIVE_S,
            timeout=TIMEOUT_S,
            max_queued_incoming_messages=MOST_QUEUED,
            will=will,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A message. What is `retained` was kept by the broker: nobody knows since when."""

    body: bytes
    at: datetime
    retained: bool


class Subscription:
    """One topic. `heard` is its latest message, `failure` why there is no connection now."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        now: Callable[[], datetime],
        *,
        on_message: Callable[[Heard], None] = lambda _heard: None,
        on_connected: Callable[[], None] = lambda: None,
        on_failure: Callable[[str], None] = lambda _detail: None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.broker = broker
        self.topic = topic
        self.heard: Heard | None = None
        self.failure: str | None = "not connected yet"
        self.settled = asyncio.Event()
        """The first message is there, or the first connection failed."""
        self.news = asyncio.Event()
        """A message came, or the connection went, since whoever cleared this."""
        self._now = now
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_failure = on_failure
        self._on_progress = on_progress
        self._failures = 0

    def latest(self) -> Heard:
        """The latest message. Raises `SourceError` where there is none, or no connection to hear a newer one."""
        if self.failure is not None:
            raise SourceError("unreachable", self.failure)
        if self.heard is None:
            raise SourceError("unknown", f"nothing was said on {self.topic} yet")
        return self.heard

    async def run(self) -> None:
        """Stay subscribed until cancelled."""
        from aiomqtt import MqttError  # noqa: PLC0415 - an extra

        while True:
            try:
                await self._listen()
            except (MqttError, MqttRefusedError, OSError, ValueError) as error:
                self._lost(str(error) or type(error).__name__)
            self._on_progress()
            await asyncio.sleep(pause_s(RETRY_S, self._failures, None, longest_s=LONGEST_RETRY_S))

    async def _listen(self) -> None:
        async with self.broker.client() as client:
            granted = await client.subscribe(self.topic, qos=1)
            if any(_is_refusal(code) for code in granted):
                raise MqttRefusedError(f"the broker refuses a subscription to {self.topic}")
            beat = asyncio.create_task(self._beat())
            self._failures, self.failure = 0, None
            self._on_connected()
            try:
                async for message in client.messages:
                    self._take(message.payload, retained=bool(message.retain))
            finally:
                beat.cancel()

    async def _beat(self) -> None:
        while True:
            self._on_progress()
            await asyncio.sleep(BEAT_S)

    def _take(self, payload: object, *, retained: bool) -> None:
        body = payload if isinstance(payload, bytes) else str(payload).encode()
        if len(body) > LIMIT_BYTES:
            self._on_failure(f"a message of {len(body)} bytes; {LIMIT_BYTES} are read at most")
            return
        self.heard = Heard(body=body, at=self._now(), retained=retained)
        self._on_message(self.heard)
        self.settled.set()
        self.news.set()

    def _lost(self, detail: str) -> None:
        self._failures += 1
        self.failure = detail
        self._on_failure(detail)
        self.settled.set()
        self.news.set()


def _is_refusal(code: object) -> bool:
    """Of MQTT 3.1.1 a number, of 5 an object with one."""
    number = getattr(code, "value", code)
    return isinstance(number, int) and number >= REFUSED
