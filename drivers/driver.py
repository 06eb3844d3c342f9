"""What a driver promises, and how it fails.

DriverError                 .kind names it, .address says where, the message says what to do
|-- Unreachable             the network or the machine's power: somebody on site must look
|   |-- Refused                 the address answers, nothing listens
|   |-- NoAnswer                the deadline passed (host down, filtered, or a peer that hangs)
|   `-- ConnectionLost          the peer closed or reset in the middle
|-- BadAnswer                the firmware: it spoke, and it was nonsense
|   |-- Malformed               not the protocol (HTML, garbage, cut JSON)
|   |-- Oversized               more bytes than any honest answer has
|   `-- Incomplete              well-formed, but what a reading needs is not in it
|-- AuthenticationFailed     the credentials in the configuration
|-- WrongMachine             another machine answers at this address: discovery must run again
|-- Unsupported              this machine, or its firmware, cannot do that at all
`-- OutOfSockets             this host has no file descriptor or port left: raise its limits
"""

# ruff: noqa: N818 - the names say what happened; that they are errors says the tree above

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import ClassVar, Protocol

from drivers.reading import Address, Family, Identity, PowerMode, Reading


class DriverError(Exception):
    """A machine could not be read. `kind` is stable: it is stored, exported and shown."""

    kind: ClassVar[str] = "driver_error"

    def __init__(self, address: Address | str, detail: str) -> None:
        super().__init__(f"{address}: {detail}")
        self.address = str(address)
        self.detail = detail


class Unreachable(DriverError):
    """Nothing came back."""

    kind = "unreachable"


class Refused(Unreachable):
    """The address answers, but nothing listens on the port."""

    kind = "refused"


class NoAnswer(Unreachable):
    """The deadline passed."""

    kind = "no_answer"


class ConnectionLost(Unreachable):
    """The peer closed or reset the connection before it had answered."""

    kind = "connection_lost"


class BadAnswer(DriverError):
    """Something came back that cannot be used."""

    kind = "bad_answer"


class Malformed(BadAnswer):
    """The bytes are not what the protocol says."""

    kind = "malformed"


class Oversized(BadAnswer):
    """More bytes than any honest answer has; reading stopped there."""

    kind = "oversized"


class Incomplete(BadAnswer):
    """Well-formed, but without what a reading needs."""

    kind = "incomplete"


class AuthenticationFailed(DriverError):
    """The machine refused our credentials."""

    kind = "authentication_failed"


class WrongMachine(DriverError):
    """Another machine answers at the address."""

    kind = "wrong_machine"


class Unsupported(DriverError):
    """The machine or its firmware has no such capability."""

    kind = "unsupported"


class OutOfSockets(DriverError):
    """The host that reads has no file descriptor or local port left. Says nothing about the machine."""

    kind = "out_of_sockets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Login of one machine's interfaces. Never printed: `repr` hides the password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password='***')"


FACTORY_CREDENTIALS: Mapping[Family, Credentials] = MappingProxyType(
    {
        Family.ANTMINER: Credentials(username="root", password="root"),  # noqa: S106
        Family.WHATSMINER_V2: Credentials(username="admin", password="admin"),  # noqa: S106
        Family.WHATSMINER_V3: Credentials(username="super", password="super"),  # noqa: S106
    }
)
"""What machines are delivered with. A family without an entry is read with pyasic's own defaults."""


def utc_now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How machines are read. Times in seconds.

    `deadline_s` bounds a whole reading, `connect_s` and `call_s` one connection and one request within it.
    Configuration, pools, MAC and firmware are read every `slow_interval_s`; after a refused login the web
    interface is left alone for `denied_retry_s`, because machines lock out.
    """

    credentials: Mapping[Family, Credentials] = field(default_factory=lambda: FACTORY_CREDENTIALS)
    deadline_s: float = 10.0
    connect_s: float = 3.0
    call_s: float = 6.0
    max_bytes: int = 1 << 20
    slow_interval_s: float = 600.0
    denied_retry_s: float = 3600.0
    power_probe_interval_s: float = 6 * 3600.0
    clock: Callable[[], datetime] = utc_now

    def login(self, family: Family) -> Credentials | None:
        """The credentials for a family, or None to use the library's own."""
        return self.credentials.get(family)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a machine's firmware can do, as far as its family and answers say."""

    can_sleep: bool
    power_modes: frozenset[PowerMode]
    reports_power: bool


class Driver(Protocol):
    """One machine. Every call is bounded in time and bytes, leaves no socket or task behind,
    and either returns what was measured or raises a `DriverError`."""

    @property
    def address(self) -> Address:
        """Where the machine answers."""

    @property
    def identity(self) -> Identity:
        """Who the machine was when it was identified."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    async def read(self) -> Reading:
        """Read the machine once, within the driver's deadline.

        Raises `WrongMachine` as soon as an answer carries another MAC or serial than `identity`.
        """

    async def identify(self) -> Identity:
        """Ask the machine who it is now (MAC, serial, model, firmware)."""
