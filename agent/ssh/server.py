"""Serves the terminal over SSH: by public keys only, one process per session, nothing but the terminal.

No password, no command, no subsystem, no forwarding of anything. The log says who came, by which key, and who left.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import asyncssh

from agent.errors import UsageError
from agent.ssh.host_key import host_key
from agent.ssh.people import People, PeopleError, Person, load_people
from agent.ssh.pseudo_terminal import USUAL_SIZE, PseudoTerminal

log = logging.getLogger("hashcost")

LOGIN_WITHIN_S = 20.0
KEEPALIVE_S = 15.0
KEEPALIVES = 3
"""A client that answers none of so many is gone."""
STRANGERS = 16
"""Connections that are let in, beside the sessions, before anybody knows whose they are."""
_TERMINAL_NAME = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "TZ", "HASHCOST_SOCKET")
_FROM_CLIENT = ("NO_COLOR", "COLORTERM")
_PLAIN = re.compile(r"[A-Za-z0-9._-]{0,64}")


class ListenError(UsageError):
    """The address to listen on cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """What is served where: `keys` names the people, `program` is what each session runs."""

    host: str
    port: int
    keys: Path
    host_key: Path
    sessions: int
    program: Sequence[str]


@dataclass(slots=True, kw_only=True)
class _House:
    """What all connections share. `people` are those of the file when somebody last knocked."""

    options: SshOptions
    people: People
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    connections: set["_Door"] = field(default_factory=set)
    sessions: set["_Session"] = field(default_factory=set)

    async def look_up(self, key: asyncssh.SSHKey) -> Person | None:
        """Whose key it is by the file as it is now. A file that is wrong lets nobody in."""
        try:
            self.people = await asyncio.to_thread(load_people, self.options.keys)
        except PeopleError as error:
            log.error("event=ssh_keys_refused detail=%r", str(error))  # noqa: TRY400 - a mistake of a person's
            return None
        return self.people.get(key.public_data)


class TerminalServer:
    """Listens, until cancelled. `port` is the one that it listens on, once `ready` is set."""

    def __init__(self, options: SshOptions) -> None:
        self.ready = asyncio.Event()
        self.port = options.port
        self._options = options

    async def run(self) -> None:
        """Serve until cancelled; sessions end with it. Raises `UsageError` at once if something is wrong or missing."""
        options = self._options
        people = await asyncio.to_thread(load_people, options.keys)
        key = await asyncio.to_thread(host_key, options.host_key)
        house = _House(options=options, people=people)
        listener = await _listen(house, key)
        async with house.tasks:
            self.port = listener.get_port()
            log.info("event=ssh_listening address=%s port=%d people=%d", options.host, self.port, len(people))
            self.ready.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ready.clear()
                listener.close()
                for door in list(house.connections):
                    door.shut()


async def _listen(house: _House, key: asyncssh.SSHKey) -> asyncssh.SSHAcceptor:
    options = house.options
    try:
        return await asyncssh.listen(
            options.host, options.port, server_factory=lambda: _Door(house), server_host_keys=[key],
            public_key_auth=True, password_auth=False, kbdint_auth=False, host_based_auth=False, gss_host=None,
            agent_forwarding=False, x11_forwarding=False, allow_scp=False, sftp_factory=None,
            line_editor=False, encoding=None, server_version="hashcost", config=None,
            login_timeout=LOGIN_WITHIN_S, keepalive_interval=KEEPALIVE_S, keepalive_count_max=KEEPALIVES,
        )  # fmt: skip
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenError(f"{options.host}:{options.port}: cannot listen there ({reason})") from error


class _Door(asyncssh.SSHServer):
    """One connection: who is it?"""

    def __init__(self, house: _House) -> None:
        self._house = house
        self._connection: asyncssh.SSHServerConnection | None = None
        self._address = "?"
        self._user = ""
        self._offered: Person | None = None
        self._tried = ""
        self._person: Person | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._address = str((conn.get_extra_info("peername") or ("?",))[0])
        self._house.connections.add(self)
        if len(self._house.connections) > self._house.options.sessions + STRANGERS:
            log.warning("event=ssh_too_many_connections address=%s", self._address)
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._house.connections.discard(self)
        if self._person is None:
            log.warning(
                "event=ssh_refused address=%s user=%r key=%s",
                self._address,
                self._user[:64],
                self._tried or "-",
            )

    def shut(self) -> None:
        """End the connection, and so its sessions."""
        if self._connection is not None:
            self._connection.abort()

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whatever the user is called: a person is a key. That somebody holds it is not proved yet."""
        self._tried = key.get_fingerprint()
        self._offered = await self._house.look_up(key)
        return self._offered is not None

    def auth_completed(self) -> None:
        """The key that was last offered was signed with."""
        self._person = self._offered

    def session_requested(self) -> "_Session | bool":
        person = self._person
        if person is None:  # nobody gets here without a key
            return False
        if len(self._house.sessions) >= self._house.options.sessions:
            log.warning("event=ssh_too_many_sessions person=%r address=%s", person.name, self._address)
            return False
        return _Session(self._house, person, self._address)


class _Session(asyncssh.SSHServerSession[bytes]):
    """One terminal of one person."""

    def __init__(self, house: _House, person: Person, address: str) -> None:
        self._house = house
        self._person = person
        self._address = address
        self._channel: asyncssh.SSHServerChannel[bytes]
        self._terminal: PseudoTerminal | None = None
        self._size = USUAL_SIZE
        self._name: str | None = None
        self._wants: str | None = None
        self._gone = False
        self._drained = asyncio.Event()
        self._drained.set()

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan
        self._house.sessions.add(self)

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._name = term_type if _TERMINAL_NAME.fullmatch(term_type) else "xterm"
        self._size = term_size[:2]
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._wants = "no commands here, only the terminal"
        return True

    def session_started(self) -> None:
        if self._name is None and self._wants is None:
            self._wants = "the terminal needs a terminal: connect without -T"
        if self._wants is not None:
            self._channel.write_stderr(f"hashcost: {self._wants}\r\n".encode())
            self._channel.exit(2)
            return
        self._house.tasks.create_task(self._serve())

    async def _serve(self) -> None:
        """Run the terminal for as long as the person stays and it does."""
        began = monotonic()
        who = (self._person.name, self._person.fingerprint, self._address)
        log.info("event=ssh_session_opened person=%r key=%s address=%s", *who)
        status = 1
        try:
            self._terminal = await PseudoTerminal.start(
                self._house.options.program, environment=self._environment(), size=self._size,
                on_blocked=self._channel.pause_reading, on_ready=self._channel.resume_reading,
            )  # fmt: skip
            status = await self._show(self._terminal)
        except (OSError, asyncssh.Error) as error:
            log.error("event=ssh_session_failed detail=%r", str(error))  # noqa: TRY400 - the host's fault
        finally:
            log.info(
                "event=ssh_session_closed person=%r key=%s address=%s seconds=%.0f", *who, monotonic() - began
            )
        if not self._gone:
            self._channel.exit(status)

    async def _show(self, terminal: PseudoTerminal) -> int:
        try:
            if self._gone:  # while it was being started
                terminal.hang_up()
            terminal.resize(self._size)
            while not self._gone and (drawn := await terminal.read()):
                self._channel.write(drawn)
                await self._drained.wait()
        finally:
            terminal.hang_up()
            status = await terminal.gone()
        return status

    def _environment(self) -> dict[str, str]:
        """What the program is told: nothing of this process's secrets, and of the client only what draws."""
        told = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        said: Mapping[str, str] = self._channel.get_environment()
        told |= {name: said[name] for name in _FROM_CLIENT if _PLAIN.fullmatch(said.get(name, "\0"))}
        return told | {"TERM": self._name or "xterm", "LANG": "C.UTF-8"}

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if self._terminal is not None:
            self._terminal.write(data)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        self._size = (width, height)
        if self._terminal is not None:
            self._terminal.resize(self._size)

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._house.sessions.discard(self)
        self._drained.set()
        if self._terminal is not None:
            self._terminal.hang_up()


def program_of(database: Path, socket: Path) -> list[str]:
    """What a session runs: the terminal that only looks."""
    options = ["--database", str(database), "--socket", str(socket)]
    return [sys.executable, "-P", "-m", "agent", "tui", *options]


def serve_until_stopped(options: SshOptions) -> None:
    """Serve until SIGTERM or SIGINT, which end all sessions. Raises `UsageError` if something is wrong or missing."""
    asyncio.run(_until_stopped(TerminalServer(options)))
    log.info("event=ssh_stopped")


async def _until_stopped(server: TerminalServer) -> None:
    serving = asyncio.current_task()
    assert serving is not None  # noqa: S101 - a coroutine runs in one
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await server.run()
