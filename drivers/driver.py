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
    `-- Unsupported              this machine, or its firmware, cannot do that at all
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from drivers.reading import Address, Identity, PowerMode, Reading


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Login of one machine's interfaces. Never printed: `repr` hides the password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password='***')"


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
