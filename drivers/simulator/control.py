"""Steering a simulated site from another process: one JSON object per line each way, over a Unix socket.

A request is `{"op": ..., ...}`, an answer `{"ok": ...}` or `{"error": "..."}`. `SiteControl` is the client.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from drivers.reading import Family, PowerMode, RunState
from drivers.simulator.faults import Fault, FaultParameter
from drivers.simulator.listeners import ListenError
from drivers.simulator.machine import CommandRecord, MachineTruth
from drivers.simulator.site import Site

LINE_LIMIT_BYTES = 64 * 1024
ANSWER_LIMIT_BYTES = 256 * 1024 * 1024

Request = dict[str, Any]
Operation = Callable[[Site, Request], Any]


class ControlError(Exception):
    """The site refused a request; the message says why."""


# -- server


def _truth(site: Site, request: Request) -> Any:
    if "address" in request:
        return _plain(site.truth(_text(request, "address")))
    return [_plain(machine.truth()) for machine in site.machines]


def _fault(site: Site, request: Request) -> None:
    parameters = request.get("parameters", {})
    if not isinstance(parameters, dict):
        raise TypeError("parameters: must be an object")
    site.set_fault(_text(request, "address"), Fault(_text(request, "fault")), **parameters)


def _clear_faults(site: Site, request: Request) -> None:
    site.clear_faults(_text(request, "address") if "address" in request else None)


def _move(site: Site, request: Request) -> None:
    site.move(_text(request, "old"), _text(request, "new"))


def _swap(site: Site, request: Request) -> None:
    site.swap(_text(request, "a"), _text(request, "b"))


def _sleep(site: Site, request: Request) -> None:
    site.sleep(_text(request, "address"))


def _wake(site: Site, request: Request) -> None:
    site.wake(_text(request, "address"))


def _set_mode(site: Site, request: Request) -> None:
    site.set_mode(_text(request, "address"), PowerMode(_text(request, "mode")))


def _clock(site: Site, _: Request) -> Any:
    clock = site.clock
    return {"sim_utc": clock.utc().isoformat(), "monotonic": clock.monotonic(), "speed": clock.speed}


OPERATIONS: dict[str, Operation] = {
    "truth": _truth,
    "fault": _fault,
    "clear_faults": _clear_faults,
    "move": _move,
    "swap": _swap,
    "sleep": _sleep,
    "wake": _wake,
    "set_mode": _set_mode,
    "clock": _clock,
}


def _text(request: Request, key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str):
        raise TypeError(f"{key}: must be given, as a string")
    return value


def _plain(truth: MachineTruth) -> dict[str, Any]:
    plain = asdict(truth)
    for command in plain["commands"]:
        command["at"] = command["at"].isoformat()
    return {**plain, "since": truth.since.isoformat(), "at": truth.at.isoformat()}


def _answer(site: Site, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            return {"error": "a request is a JSON object"}
        operation = OPERATIONS.get(_text(request, "op"))
        if operation is None:
            return {"error": f"op: one of {', '.join(OPERATIONS)}"}
        return {"ok": operation(site, request)}
    except KeyError as error:
        return {"error": f"no machine at {error.args[0]}"}
    except (ValueError, TypeError, ListenError, RecursionError) as error:
        return {"error": str(error)}


@asynccontextmanager
async def serve(site: Site, path: Path) -> AsyncIterator[None]:
    """Serve the control socket, for this user only, as long as the block runs."""
    conversations = set[asyncio.Task[None]]()
    open_ = True

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not open_:
            writer.transport.abort()
            return
        conversation = tasks.create_task(_converse(site, reader, writer))
        conversations.add(conversation)
        conversation.add_done_callback(conversations.discard)
        # here, not in the conversation: one that is cancelled before its first step runs no `finally`
        conversation.add_done_callback(lambda _: writer.close())

    path.unlink(missing_ok=True)  # noqa: ASYNC240 - three system calls in the life of a site
    async with asyncio.TaskGroup() as tasks:
        server = await asyncio.start_unix_server(accept, path, limit=LINE_LIMIT_BYTES)
        path.chmod(0o600)  # noqa: ASYNC240
        try:
            yield
        finally:
            for sock in server.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            # asyncio forgets connections that it accepts while a server closes: let those begin, and end, first
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            open_ = False
            server.close()
            for conversation in conversations:
                conversation.cancel()
            path.unlink(missing_ok=True)  # noqa: ASYNC240


async def _converse(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # the client may vanish, or send a line beyond all bounds: either ends the conversation
    with suppress(ConnectionError, ValueError):
        while line := await reader.readline():
            writer.write(json.dumps(_answer(site, line)).encode() + b"\n")
            await writer.drain()


# -- client


class SiteControl:
    """A connection to the control socket: `async with SiteControl(path) as site`. Raises ControlError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Connect."""
        self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=ANSWER_LIMIT_BYTES)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        if self._writer is not None:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()

    async def truth(self, address: str) -> MachineTruth:
        """What the machine at this address really does."""
        return _truth_from(await self._ask(op="truth", address=address))

    async def all_truth(self) -> list[MachineTruth]:
        """What every machine really does."""
        return [_truth_from(plain) for plain in await self._ask(op="truth")]

    async def set_fault(self, address: str, fault: Fault, **parameters: FaultParameter) -> None:
        """Break something."""
        await self._ask(op="fault", address=address, fault=fault.value, parameters=parameters)

    async def clear_faults(self, address: str | None = None) -> None:
        """Repair one machine, or all of them."""
        await self._ask(op="clear_faults", **({} if address is None else {"address": address}))

    async def move(self, old: str, new: str) -> None:
        """DHCP gives a machine another address."""
        await self._ask(op="move", old=old, new=new)

    async def swap(self, a: str, b: str) -> None:
        """DHCP gives two machines each other's address."""
        await self._ask(op="swap", a=a, b=b)

    async def sleep(self, address: str) -> None:
        """An operator puts the machine to sleep on site."""
        await self._ask(op="sleep", address=address)

    async def wake(self, address: str) -> None:
        """An operator wakes the machine on site."""
        await self._ask(op="wake", address=address)

    async def set_mode(self, address: str, mode: PowerMode) -> None:
        """An operator changes the power mode on site."""
        await self._ask(op="set_mode", address=address, mode=mode.value)

    async def now(self) -> datetime:
        """Simulated time, aware UTC."""
        return datetime.fromisoformat((await self._ask(op="clock"))["sim_utc"])

    async def _ask(self, **request: Any) -> Any:
        if self._reader is None or self._writer is None:
            raise ControlError("not connected")
        line = b""
        async with self._turn:
            with suppress(ConnectionError):
                self._writer.write(json.dumps(request).encode() + b"\n")
                await self._writer.drain()
                line = await self._reader.readline()
        if not line:
            raise ControlError("the site is gone")
        answer = json.loads(line)
        if "error" in answer:
            raise ControlError(answer["error"])
        return answer["ok"]


def _truth_from(plain: dict[str, Any]) -> MachineTruth:
    commands = tuple(
        CommandRecord(**{**command, "at": datetime.fromisoformat(command["at"])})
        for command in plain["commands"]
    )
    typed = {
        "family": Family(plain["family"]),
        "run_state": RunState(plain["run_state"]),
        "power_mode": PowerMode(plain["power_mode"]),
        "since": datetime.fromisoformat(plain["since"]),
        "at": datetime.fromisoformat(plain["at"]),
        "pools": tuple(plain["pools"]),
        "commands": commands,
    }
    return MachineTruth(**{**plain, **typed})
