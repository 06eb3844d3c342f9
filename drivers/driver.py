"""What a driver promises, and how it fails.

Readings are evidence; commands are not. A command ends in a `Receipt` (bytes went out; what came back proves
nothing) or in an error, and an error means that the machine certainly did not accept it: nothing was sent, or
it said no. `DriverError.sent` tells one from the other on the way up.

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
|-- CommandRefused           the machine said no, or is in no state to be told; the message says why
|-- HostKeyChanged           its SSH host key is not the one that was pinned: somebody must say why
|-- WrongMachine             another machine answers at this address: discovery must run again
|-- Unsupported              this machine, or its firmware, cannot do that at all
`-- OutOfSockets             this host has no file descriptor or port left: raise its limits
"""

# ruff: noqa: N818 - the names say what happened; that they are errors says the tree above

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Protocol

from drivers.reading import Address, Family, Identity, PowerMode, Reading


class DriverError(Exception):
    """A machine could not be read, or did not take a command. `kind` is stable: it is stored, exported, shown.

    `sent` is whether a request had left for the machine when this happened.
    """

    kind: ClassVar[str] = "driver_error"

    def __init__(self, address: Address | str, detail: str, *, sent: bool = False) -> None:
        super().__init__(f"{address}: {detail}")
        self.address = str(address)
        self.detail = detail
        self.sent = sent


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


class CommandRefused(DriverError):
    """The machine said no in so many words, or its state forbids the command; it does what it did before."""

    kind = "command_refused"


class HostKeyChanged(DriverError):
    """The SSH host key is another one than when the machine was first met. It was not given the password."""

    kind = "host_key_changed"


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


SSH_LOGIN = "ssh"
"""The login of a machine's shell, beside those of the families' interfaces."""
FACTORY_CREDENTIALS: Mapping[str, Credentials] = MappingProxyType(
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


class HostKeys(Protocol):
    """The SSH host keys of machines by MAC, each as in a known_hosts file. Both calls block."""

    def known(self, mac: str) -> str | None:
        """The key that was pinned; None for a machine that was never met."""

    def pin(self, mac: str, key: str) -> None:
        """Keep the key of a machine that was met for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How machines are read and commanded. Times in seconds of the wall clock.

    `deadline_s` bounds a whole reading, `connect_s` and `call_s` one connection and one request within it.
    Configuration, pools, MAC and firmware are read at least every `slow_interval_s`; after a refused login the web
    interface is left alone for `denied_retry_s`, because machines lock out. The answer to a command is awaited
    for `write_s`: stock Antminers take 21 s. Without `host_keys` nothing is done over SSH.
    """

    credentials: Mapping[str, Credentials] = field(default_factory=lambda: FACTORY_CREDENTIALS)
    deadline_s: float = 10.0
    connect_s: float = 3.0
    call_s: float = 6.0
    write_s: float = 30.0
    max_bytes: int = 1 << 20
    slow_interval_s: float = 600.0
    denied_retry_s: float = 3600.0
    power_probe_interval_s: float = 6 * 3600.0
    clock: Callable[[], datetime] = utc_now
    host_keys: HostKeys | None = None

    def login(self, family: str) -> Credentials | None:
        """The credentials for a family, or `SSH_LOGIN`; None to use the library's own."""
        return self.credentials.get(family)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a machine's firmware can do through this driver, as far as its family and answers say.

    `power_modes` are those that `set_power_mode` takes.
    """

    can_sleep: bool
    power_modes: frozenset[PowerMode]
    reports_power: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """What `wake` puts back: how the machine was set before it was put to sleep. Plain enough for JSON.

    `settings` are the family's own (stock Antminer: the mode keys and `freq-level`, as texts), empty where the
    mode says everything. `power_mode` is None where the machine has no modes, or does not lose its own asleep.
    """

    power_mode: PowerMode | None
    settings: Mapping[str, str]


class Said(StrEnum):
    """What a machine answered to a command that was sent."""

    OK = "ok"
    """It said that it did, or will."""
    SILENT = "silent"
    """Nothing, too late, half, or nonsense: it may have done it or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A command was sent. Neither answer proves that anything happened: only a later reading does."""

    said: Said
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Within how many seconds of the machine's time a reading should show what was commanded.

    A reading sooner than `sleep_from_s` proves no sleep: firmware that only restarts its miner, and sleeps at the next
    boot if at all, hashes as little in between as one that sleeps.
    """

    sleep_within_s: float
    wake_within_s: float
    sleep_from_s: float = 0.0


class Driver(Protocol):
    """One machine. Every call is bounded in time and bytes, and leaves no socket or task behind.

    Reading and asking either return what was measured or raise a `DriverError`. Commands (`sleep`, `wake`,
    `set_power_mode`) go one at a time, a second one waits for the first; readings may go on meanwhile. Each makes
    sure first that the machine is still the one of `identity`, unless `restore_point` did so seconds before. It
    returns a `Receipt` once it was sent, and raises only if the machine certainly did not accept it: `Unreachable`,
    `BadAnswer`, `WrongMachine`, `OutOfSockets` (found before it was sent), `AuthenticationFailed`, `CommandRefused`,
    `Unsupported`. A command that is cancelled may have been sent.
    """

    @property
    def address(self) -> Address:
        """Where the machine answers."""

    @property
    def identity(self) -> Identity:
        """Who the machine was when it was identified."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def timings(self) -> Timings:
        """How long after a command its effect may be waited for."""

    async def read(self) -> Reading:
        """Read the machine once, within the driver's deadline.

        Raises `WrongMachine` as soon as an answer carries another MAC or serial than `identity`.
        """

    async def identify(self) -> Identity:
        """Ask the machine who it is now (MAC, serial, model, firmware)."""

    async def restore_point(self) -> RestorePoint:
        """Read what `wake` would have to put back. To be kept durably before `sleep` is sent. What it finds out serves
        the next command too, if that follows within `drivers.commands.PREPARED_FOR_S`.

        Raises `DriverError` if it cannot be read completely. A machine that sleeps already: a stock Antminer or
        a Marathon has forgotten its mode (`CommandRefused`); Whatsminers keep theirs, and tell it too unless
        their firmware is mute while it sleeps (`Refused`); the others have none.
        """

    async def sleep(self) -> Receipt:
        """Tell the machine to stop hashing. Sent whatever it does now: a second one reloads some machines."""

    async def wake(self, point: RestorePoint) -> Receipt:
        """Tell the machine to hash again, set exactly as `point` says."""

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Tell a machine that is awake to mine in another mode. `CommandRefused` if it sleeps (that would wake
        it), `Unsupported` for a mode that is not in its capabilities."""
