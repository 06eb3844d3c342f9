"""Machines that can only be stopped over SSH: the mining process of stock S9, T9, S17 and T17, and of Braiins OS before
gRPC, stopped and started by the script that boots it. Whether it runs is asked the same way, and counts as a reading:
with it the API is gone.

Who answers must have the machine's MAC, and the host key that was pinned when it was first met. Another key is refused
before the password is sent; the first key is believed, as there is nobody to ask.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncssh

from drivers.commands import receipt
from drivers.connection import failure
from drivers.driver import (
    SSH_LOGIN,
    AuthenticationFailed,
    CommandRefused,
    ConnectionLost,
    Credentials,
    HostKeyChanged,
    HostKeys,
    Incomplete,
    Malformed,
    NoAnswer,
    Oversized,
    ReadOptions,
    Receipt,
    RestorePoint,
    Timings,
    Unsupported,
)
from drivers.reading import Address, Identity, PowerMode, PowerSource, Reading, RunState
from drivers.reads import check_identity
from drivers.values import mac

PORT = 22
LIMIT_BYTES = 64 * 1024
SCRIPTS = ("bosminer", "bmminer.sh", "cgminer.sh", "bmminer", "cgminer")
"""What starts the mining process at boot, by generation, in /etc/init.d."""
_MARK = "--hashcost--"
_QUESTIONS = ("cat /sys/class/net/eth0/address", "ls /etc/init.d", "pidof bosminer bmminer cgminer")
_ASK = "".join(f"{question}; echo {_MARK}; " for question in _QUESTIONS)
# Dropbear of these machines is of 2014 to 2017
_OLD_KEX = "+diffie-hellman-group14-sha1,diffie-hellman-group1-sha1"
_OLD_CIPHERS = "+aes128-cbc,3des-cbc"
STOPPED_WITHIN = Timings(sleep_within_s=120.0, wake_within_s=900.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The mining process of a machine: the script that starts it, and whether it runs."""

    mac: str | None
    script: str | None
    runs: bool


def stopped_reading(began_at: datetime, ended_at: datetime, firmware: str | None) -> Reading:
    """Of a machine whose shell says that its mining process does not run: with it the API is gone."""
    return Reading(
        began_at=began_at,
        ended_at=ended_at,
        run_state=RunState.ASLEEP,
        hashrate_ths=0.0,
        expected_hashrate_ths=None,
        power_w=None,
        power_source=PowerSource.UNKNOWN,
        power_error=None,
        power_mode=None,
        firmware=firmware,
    )


class SshControl:
    """The commands of one machine. Where no process runs, the machine sleeps."""

    timings = STOPPED_WITHIN
    power_modes: frozenset[PowerMode] = frozenset()

    def __init__(
        self, identity: Identity, address: Address, options: ReadOptions, login: Credentials, keys: HostKeys
    ) -> None:
        self._identity = identity
        self._address = address
        self._options = options
        self._login = login
        self._keys = keys

    @classmethod
    def where_allowed(cls, identity: Identity, address: Address, options: ReadOptions) -> "SshControl | None":
        """The shell of a machine, if there is a login for it, a place for host keys, and a way to it."""
        login = options.login(SSH_LOGIN)
        if login is None or options.host_keys is None or address.port is not None:
            return None
        return cls(identity, address, options, login, options.host_keys)

    async def mines(self) -> bool:
        """Whether its mining process runs. Raises `DriverError`; `WrongMachine` if it is another one."""
        async with self._session(self._options.call_s) as session:
            return (await self._met(session)).runs

    async def restore_point(self) -> RestorePoint:
        """Nothing but the process is stopped. Raises `CommandRefused` if it is already."""
        async with self._session(self._options.call_s) as session:
            if not (await self._met(session)).runs:
                raise CommandRefused(self._address, "its mining process is stopped already")
        return RestorePoint(power_mode=None, settings={})

    async def sleep(self) -> Receipt:
        """Stop the process."""
        return await self._tell("stop")

    async def wake(self, point: RestorePoint) -> Receipt:
        """Start the process; there is nothing else to put back."""
        del point
        return await self._tell("start")

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """There are no modes. Raises `Unsupported`."""
        raise Unsupported(self._address, f"cannot be set to the mode {mode}")

    async def _tell(self, word: str) -> Receipt:
        return await receipt(self._told(word))

    async def _told(self, word: str) -> str:
        async with self._session(self._options.write_s) as session:
            found = await self._met(session)
            if found.script is None:
                raise Unsupported(self._address, f"has none of {', '.join(SCRIPTS)} in /etc/init.d")
            command = f"/etc/init.d/{found.script} {word}"
            status, output = await session.run(command, sent=True)
        if status != 0:  # it may have done it all the same: only a reading tells
            raise Malformed(self._address, f"{command}: exit status {status}", sent=True)
        return f"{command}: {output.strip()[:80] or 'done'}"

    async def _met(self, session: "_Session") -> Process:
        """The process, once it is certain whose it is; the host key is pinned then. Raises `DriverError`."""
        _, output = await session.run(_ASK)
        found = process(output)
        if found is None:
            raise Malformed(self._address, "the shell does not answer as that of a miner")
        if self._identity.mac is None or found.mac is None:
            raise Incomplete(self._address, "its MAC is not known, so nothing was sent")
        check_identity(self._address, self._identity, mac=found.mac, serial=None)
        if session.pinned is None:
            with self._keeping():
                await asyncio.to_thread(self._keys.pin, self._identity.mac, session.presented)
        return found

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Without a place for host keys there is no knowing who answers. Raises `Unsupported`."""
        try:
            yield
        except (OSError, UnicodeDecodeError) as error:
            detail = f"the file of SSH host keys cannot be used ({error}), so nothing was sent"
            raise Unsupported(self._address, detail) from error

    @asynccontextmanager
    async def _session(self, within_s: float) -> AsyncIterator["_Session"]:
        """A session that ends with the block, whatever happens. Raises `DriverError`."""
        pinned = None
        if self._identity.mac is not None:
            with self._keeping():
                pinned = await asyncio.to_thread(self._keys.known, self._identity.mac)
        session = _Session(self._address, pinned)
        try:
            async with asyncio.timeout(within_s):
                await session.open(self._login, self._options)
                yield session
        except TimeoutError as error:
            raise NoAnswer(
                self._address, f"no answer over SSH within {within_s:g} s", sent=session.sent
            ) from error
        finally:
            session.close()


class _Session:
    """One connection. `presented` is the host key that it showed."""

    def __init__(self, address: Address, pinned: str | None) -> None:
        self._address = address
        self._connection: asyncssh.SSHClientConnection | None = None
        self.pinned = pinned
        self.presented = ""
        self.sent = False

    async def open(self, login: Credentials, options: ReadOptions) -> None:
        """Connect and log in. Raises `DriverError`; a key that is not the pinned one ends it before the login."""
        with _as_driver_errors(self):
            self._connection = await asyncssh.connect(
                self._address.host,
                self._address.port or PORT,
                username=login.username,
                password=login.password,
                client_factory=lambda: _Client(self),
                known_hosts=([], [], []),  # nothing but our own judgement
                config=None,
                client_keys=None,
                agent_path=None,
                preferred_auth="password,keyboard-interactive",
                kex_algs=_OLD_KEX,
                encryption_algs=_OLD_CIPHERS,
                connect_timeout=options.connect_s,
            )

    async def run(self, command: str, *, sent: bool = False) -> tuple[int | None, str]:
        """Exit status and output, bounded. Raises `DriverError`; `sent` marks a command that changes something."""
        assert self._connection is not None  # noqa: S101 - it was opened
        self.sent = self.sent or sent  # from here on: it may be done before the machine says that it will
        with _as_driver_errors(self):
            running: asyncssh.SSHClientProcess[bytes] = await self._connection.create_process(
                command, encoding=None, stderr=asyncssh.DEVNULL, stdin=asyncssh.DEVNULL
            )
            output = b""
            while chunk := await running.stdout.read(LIMIT_BYTES):
                output += chunk
                if len(output) > LIMIT_BYTES:
                    raise Oversized(self._address, f"more than {LIMIT_BYTES} bytes over SSH", sent=self.sent)
            await running.wait_closed()
            return running.exit_status, output.decode("utf-8", errors="replace")

    def judge(self, key: str) -> bool:
        """Whether to go on with this host key."""
        self.presented = key
        return self.pinned in (None, key)

    def close(self) -> None:
        """Give the socket back now."""
        if self._connection is not None:
            self._connection.abort()

    @property
    def address(self) -> Address:
        """Where it goes."""
        return self._address


class _Client(asyncssh.SSHClient):
    def __init__(self, session: _Session) -> None:
        self._session = session

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked for every key, as none is known to asyncssh."""
        return self._session.judge(_text(key))


def _text(key: asyncssh.SSHKey) -> str:
    """Type and key as in a known_hosts file, without the comment."""
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


class _as_driver_errors:  # noqa: N801 - reads as what it does
    """Whatever goes wrong inside is a `DriverError` of the session's machine."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        address, sent = self._session.address, self._session.sent
        port = address.port or PORT
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            detail = (
                "shows another SSH host key than when it was first met, and was not given the password; if its "
                "firmware was written anew, take its line out of the file of host keys"
            )
            raise HostKeyChanged(address, detail) from None
        if isinstance(error, asyncssh.PermissionDenied):
            detail = "refuses the login over SSH, check [credentials.ssh]"
            raise AuthenticationFailed(address, detail) from None
        if isinstance(error, asyncssh.ConnectionLost | asyncssh.ChannelOpenError):
            raise ConnectionLost(address, f"SSH on port {port}: connection lost", sent=sent) from None
        if isinstance(error, asyncssh.Error):
            raise Malformed(address, f"SSH on port {port}: {type(error).__name__}", sent=sent) from None
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            found = failure(str(address), port, error)
            found.sent = sent
            raise found from None


def process(output: str) -> Process | None:
    """What the shell told of the mining process; None if it answers otherwise than asked."""
    parts = output.split(_MARK)
    if len(parts) != 4:
        return None
    scripts = set(parts[1].split())
    return Process(
        mac=mac(parts[0].strip()),
        script=next((name for name in SCRIPTS if name in scripts), None),
        runs=any(each.isdigit() for each in parts[2].split()),
    )
