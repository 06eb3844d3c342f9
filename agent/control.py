"""Commands to the running agent over a Unix socket, and who may give them.

One JSON object a line: `{"v": 1, "command": "hold", "arguments": {}}` is answered by `{"v": 1, "result": {...}}` or
`{"v": 1, "error": {"code": "forbidden", "message": "..."}}`. A request is at most 64 KiB long. Everybody may connect;
the kernel says who it is, and from that follows whether it is an operator or a viewer. Codes of errors:

    malformed, too_long, version    no request; the message says what one looks like
    forbidden                       a viewer gave an operator's command
    usage                           the command or its arguments, or machines or orders that there are not
    failed, internal                the agent could not do it; `internal` is a mistake of ours, and is in its log
    busy                            too many clients; try again

    ControlError                    .code is one of these, or `unreachable`, `lost`, `timeout`, `socket` on this side
    `-- BadCommandError                 exit 2: code `usage`
"""

import asyncio
import contextlib
import fcntl
import grp
import json
import logging
import os
import pwd
import socket
import stat
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from agent.errors import AgentError, UsageError
from agent.supervision import Spell

log = logging.getLogger("hashcost")

DEFAULT_SOCKET = Path("/run/hashcost/agent.sock")
OPERATOR_GROUP = "hashcost-operators"
VIEWER_COMMANDS = frozenset({"status", "orders", "obligations", "alerts"})
"""What everybody may ask; every other command is an operator's."""
VERSION = 1
LINE_LIMIT_BYTES = 64 * 1024
ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
"""An answer may name every machine of a site."""
MAX_CLIENTS = 16
MAX_VIEWERS = 12
"""So that viewers never shut operators out."""
IDLE_S = 10.0
CALL_TIMEOUT_S = 10.0
VIEWER_PAUSE_S = 0.05
"""Viewers are answered one at a time, with this pause: however many ask, they cost the agent little."""
FORBIDDEN_TOLD = 1000
"""Of a user's commands that are not for them the first is logged, and then one in so many."""
ACCEPT_PAUSE_S = 1.0
ACCEPTED_AGAIN = 100
"""Clients in a row after which it is told that they are accepted again."""
_BACKLOG = 128
_SO_PEERGROUPS = 59
_CREDENTIALS = struct.Struct("3i")
_MAX_OPTION_BYTES = 1024


class ControlError(AgentError):
    """A command did not get through, or the agent did not carry it out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BadCommandError(ControlError, UsageError):
    """The command makes no sense to the agent as it was given."""


class Role(StrEnum):
    """What a caller may do."""

    STRANGER = "stranger"
    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One command with who gave it. `user` is the name of `uid`, or `uid:1234` where it has none."""

    command: str
    arguments: Mapping[str, Any]
    user: str
    uid: int
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, as the kernel knows it since it connected."""

    uid: int
    gids: frozenset[int]

    def role(self, *, agent_uid: int, groups: "Groups") -> Role:
        """Root, the agent itself and the members of the operators' group are operators; everybody else is a viewer,
        unless there is a group for that which they are not in."""
        if self.uid in {0, agent_uid} or groups.operator_gid in self.gids:
            return Role.OPERATOR
        may_look = not groups.has_viewers or groups.viewer_gid in self.gids
        return Role.VIEWER if may_look else Role.STRANGER


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Ids of the groups that decide roles. `has_viewers` says that there is a group for viewers; an id is None where
    the host has no group of the name."""

    operator_gid: int | None
    has_viewers: bool = False
    viewer_gid: int | None = None


def permitted(command: str, role: Role) -> bool:
    """Whether a caller of this role may give the command. What nobody knows is an operator's."""
    return role is Role.OPERATOR or (role is Role.VIEWER and command in VIEWER_COMMANDS)


# -- messages ----------------------------------------------------------------------------------------


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    v: Literal[1] = 1


class RequestMessage(_Message):
    """A line to the agent."""

    v: Literal[1]
    command: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    arguments: dict[str, JsonValue] = {}


class ErrorBody(BaseModel):
    """Why not: a stable code and a sentence for a person."""

    model_config = ConfigDict(frozen=True, strict=True)

    code: str
    message: str


class AnswerMessage(_Message):
    """A line from the agent: a result or an error."""

    result: dict[str, JsonValue] | None = None
    error: ErrorBody | None = None


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps({"v": VERSION, **message}, allow_nan=False).encode() + b"\n"


def _error(code: str, message: str) -> bytes:
    return _line({"error": {"code": code, "message": message}})


def _malformed(error: ValidationError) -> bytes:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:80]
    if place == "v":
        return _error("version", f"this agent speaks version {VERSION} of the protocol")
    reason = f"{place}: {first['msg']}" if place else first["msg"]
    return _error("malformed", f'{reason}; a request is {{"v": 1, "command": "status", "arguments": {{}}}}')


# -- server ------------------------------------------------------------------------------------------


class ControlServer:
    """Listens on the socket and hands every permitted request to `handle`, whose answer is what the client gets.

    `handle` may raise `UsageError` (code `usage`) or another `AgentError` (`failed`). `ready` is set while it listens.
    """

    def __init__(
        self,
        path: Path,
        handle: Callable[[Request], Awaitable[dict[str, Any]]],
        *,
        operator_group: str = OPERATOR_GROUP,
        viewer_group: str | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self.ready = asyncio.Event()
        self._path = path
        self._handle = handle
        self._operator_group = operator_group
        self._viewer_group = viewer_group
        self._groups = Groups(operator_gid=None)
        self._idle_s = idle_s
        self._clients: Counter[Role] = Counter()
        self._forbidden_to: Counter[int] = Counter()
        self._viewers_turn = asyncio.Lock()

    async def run(self) -> None:
        """Serve until cancelled. Raises `ControlError` if the socket cannot be had."""
        self._groups = await asyncio.to_thread(_groups, self._operator_group, self._viewer_group)
        endpoint = await _endpoint(self._path)
        try:
            async with asyncio.TaskGroup() as clients:
                self.ready.set()
                await self._accept(endpoint.listener, clients)
        finally:
            self.ready.clear()
            await asyncio.to_thread(endpoint.close)

    async def _accept(self, listener: socket.socket, clients: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        spell = Spell(ACCEPTED_AGAIN)
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors left, most likely; those who wait are served later
                if spell.look(bad=True):
                    log.warning("event=control_accept_failed detail=%r", str(error))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if spell.look(bad=False):
                log.info("event=control_accepts")
            connection.setblocking(False)
            peer = _peer(connection)
            role = peer.role(agent_uid=os.geteuid(), groups=self._groups)
            if self._is_full(role):
                with connection, contextlib.suppress(OSError):
                    connection.send(_error("busy", "too many clients; try again"))
                continue
            self._clients[role] += 1
            clients.create_task(self._serve(connection, peer, role))

    def _is_full(self, role: Role) -> bool:
        others = self._clients.total() - self._clients[Role.OPERATOR]
        return self._clients.total() >= MAX_CLIENTS or (role is not Role.OPERATOR and others >= MAX_VIEWERS)

    async def _serve(self, connection: socket.socket, peer: Peer, role: Role) -> None:
        """One client, whatever it does: its connection is closed in the end and nobody else hears of it."""
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_LIMIT_BYTES)
            try:
                with contextlib.suppress(OSError):  # it left, or was too slow to read what it asked for
                    await self._converse(reader, writer, peer, role)
                    writer.close()
                    async with asyncio.timeout(self._idle_s):
                        await writer.wait_closed()
            finally:
                writer.transport.abort()
        finally:
            connection.close()
            self._clients[role] -= 1

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer, role: Role
    ) -> None:
        user = await asyncio.to_thread(_user, peer.uid)
        while True:
            try:
                async with asyncio.timeout(self._idle_s):  # for the whole line: dripping bytes gains no time
                    line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                writer.write(_error("too_long", f"a request is at most {LINE_LIMIT_BYTES} bytes long"))
                return
            async with self._turn(role):
                writer.write(await self._answer(line, user, peer.uid, role))
            async with asyncio.timeout(self._idle_s):
                await writer.drain()

    @contextlib.asynccontextmanager
    async def _turn(self, role: Role) -> AsyncIterator[None]:
        if role is Role.OPERATOR:
            yield
            return
        async with self._viewers_turn:
            await asyncio.sleep(VIEWER_PAUSE_S)
            yield

    async def _answer(self, line: bytes, user: str, uid: int, role: Role) -> bytes:
        try:
            message = RequestMessage.model_validate_json(line)
        except ValidationError as error:
            return _malformed(error)
        command = message.command
        if not permitted(command, role):
            self._forbidden_to[uid] += 1
            if self._forbidden_to[uid] % FORBIDDEN_TOLD == 1:  # who floods us must not fill the log either
                log.warning(
                    "event=command_forbidden command=%s user=%s uid=%d count=%d",
                    command, user, uid, self._forbidden_to[uid],
                )  # fmt: skip
            return _error("forbidden", self._forbidden(command, user))
        request = Request(command=command, arguments=message.arguments, user=user, uid=uid, role=role)
        try:
            return _line({"result": await self._handle(request)})
        except UsageError as error:
            return _error("usage", str(error))
        except AgentError as error:
            return _error("failed", str(error))
        except Exception:  # a mistake in one command must not take `hold` from the operators
            log.exception("event=command_failed command=%s user=%s", command, user)
            return _error("internal", f"{command} failed inside the agent; its log says why")

    def _forbidden(self, command: str, user: str) -> str:
        if command in VIEWER_COMMANDS:
            whose, group = "viewers and operators", self._viewer_group
        else:
            whose, group = "operators", self._operator_group
        return f"{command} is for {whose}, and {user} is none; ask to be added to the group {group}, then log in again"


class _Endpoint:
    """The listening socket and the right to it. Blocks: not for the event loop.

    The lock beside the socket is held as long as the agent lives. It settles who may remove a stale file; it stays on
    disk, for removing a lock is a race of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as undo:
            try:
                _make_directory(path.parent)
                self._lock = os.open(
                    path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
                )
                undo.callback(os.close, self._lock)
                self._claim()
                self.listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                self.listener.bind(str(path))
                path.chmod(0o666)  # everybody may knock; the kernel says who does
                self.listener.listen(_BACKLOG)
                self.listener.setblocking(False)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ControlError(
                    "socket", f"{path}: the agent cannot listen there ({reason}); name another"
                ) from error
            undo.pop_all()

    def _claim(self) -> None:
        """Take the lock and remove what a dead agent left. Raises `ControlError` if somebody lives here."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _occupied(self._path) from error
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ControlError("socket", f"{self._path}: is in the way and not a socket; name another")
        if _is_live(self._path):
            raise _occupied(self._path)
        self._path.unlink()

    def close(self) -> None:
        """Stop listening and leave no socket file."""
        self._path.unlink(missing_ok=True)
        self.listener.close()
        os.close(self._lock)


async def _endpoint(path: Path) -> _Endpoint:
    """One that is ours to close. Raises `ControlError`. If this is cancelled none is left: it would keep its place from
    the agent that follows this one."""
    making = asyncio.ensure_future(asyncio.to_thread(_Endpoint, path))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        await asyncio.wait([making])
        if making.exception() is None:
            await asyncio.to_thread(making.result().close)
        raise


def _occupied(path: Path) -> ControlError:
    return ControlError("socket", f"{path}: another agent listens there; stop it first, or name another")


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True)
        directory.chmod(0o755)  # whatever the umask: callers must be able to reach the socket


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except TimeoutError:
            return True
    return True


def _groups(operators: str, viewers: str | None) -> Groups:
    viewer_gid = None if viewers is None else _gid(viewers)
    return Groups(operator_gid=_gid(operators), has_viewers=viewers is not None, viewer_gid=viewer_gid)


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"


def _peer(connection: socket.socket) -> Peer:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(credentials)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
    except OSError:  # more groups than Python can ask for: only the first one counts
        groups = b""
    return Peer(uid=uid, gids=frozenset({gid, *struct.unpack(f"{len(groups) // 4}I", groups)}))


# -- client ------------------------------------------------------------------------------------------


async def call(
    path: Path, command: str, /, *, timeout_s: float = CALL_TIMEOUT_S, **arguments: Any
) -> dict[str, Any]:
    """Give the agent a command and return its result. Raises `ControlError` with what to do."""
    line = _line({"command": command, "arguments": arguments})
    if len(line) > LINE_LIMIT_BYTES:
        raise BadCommandError(
            "too_long", f"{command}: too many arguments for one command; give them in parts"
        )
    try:
        async with asyncio.timeout(timeout_s):
            answer = AnswerMessage.model_validate_json(await _exchange(path, line))
    except TimeoutError as error:
        raise ControlError(
            "timeout",
            f"{path}: no answer within {timeout_s:g} s; {command} may have been carried out all the same, see "
            "`hashcost status`",
        ) from error
    except ValidationError as error:
        raise ControlError(
            "malformed", f"{path}: what answers there is no hashcost agent of this version"
        ) from error
    if answer.error is not None:
        kind = BadCommandError if answer.error.code == "usage" else ControlError
        raise kind(answer.error.code, answer.error.message)
    return answer.result or {}


def ask(
    path: Path, command: str, /, *, timeout_s: float = CALL_TIMEOUT_S, **arguments: Any
) -> dict[str, Any]:
    """`call` for those without an event loop."""
    return asyncio.run(call(path, command, timeout_s=timeout_s, **arguments))


async def _exchange(path: Path, line: bytes) -> bytes:
    """Send one line, get one line. Raises `ControlError` or `TimeoutError`."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_LIMIT_BYTES)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlError(
            "unreachable",
            f"{path}: no agent listens there; start it with `hashcost run`, or name its socket with --socket or "
            "HASHCOST_SOCKET",
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ControlError("unreachable", f"{path}: the agent cannot be reached ({reason})") from error
    try:
        writer.write(line)
        await writer.drain()
        return await reader.readuntil(b"\n")
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise ControlError(
            "lost", f"{path}: the agent hung up without an answer; see `hashcost status` and its log"
        ) from error
    except asyncio.LimitOverrunError as error:
        raise ControlError("malformed", f"{path}: the answer is longer than any honest one") from error
    finally:
        writer.transport.abort()
