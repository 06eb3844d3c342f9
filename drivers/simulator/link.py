"""One accepted connection: finds the machine behind the local address and lets its faults spoil the transport.

A `Link` knows bytes and time, a `Conversation` knows one protocol. Nothing here is a task: answers that come late
are timers that die with the connection.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from drivers.simulator.faults import Fault
from drivers.simulator.machine import SimulatedMachine

IDLE_S = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer: `body` before framing. `crashed` means that the machine went down instead of answering."""

    body: bytes
    writes: bool = False
    crashed: bool = False


class Conversation(Protocol):
    """One protocol on one connection."""

    def receive(self, data: bytes) -> None:
        """Take what arrived."""


class Link(asyncio.Protocol):
    """One connection. `find` gives the machine at a local address and `converse` its protocol on a local port."""

    def __init__(
        self,
        find: Callable[[str], SimulatedMachine | None],
        converse: "Callable[[SimulatedMachine, int, Link], Conversation | None]",
        links: "set[Link]",
        links_gone: asyncio.Event,
    ) -> None:
        self._find = find
        self._converse = converse
        self._links = links
        self._links_gone = links_gone
        self._transport: asyncio.Transport | None = None
        self._machine: SimulatedMachine | None = None
        self._conversation: Conversation | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._late: list[asyncio.TimerHandle] = []

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out which machine was called, and whether it takes the call."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - listeners are TCP
        self._transport = transport
        self._links.add(self)
        address, port = transport.get_extra_info("sockname")[:2]
        machine = self._find(address)
        if machine is None or machine.offline or machine.has(Fault.REFUSES):
            self.reset()
            return
        self._machine = machine
        self._conversation = self._converse(machine, port, self)
        if self._conversation is None:
            self.reset()
            return
        self._restart_idle_timer()

    def data_received(self, data: bytes) -> None:
        """Hand input on; conversations keep it within bounds."""
        machine = self._machine
        if machine is None or self._conversation is None:
            return
        if machine.has(Fault.HANGS) or machine.has(Fault.NO_ANSWER):
            self._stop_idling()
            return
        if machine.offline or machine.has(Fault.RESETS):
            self.reset()
            return
        self._restart_idle_timer()
        self._conversation.receive(data)

    def eof_received(self) -> bool:
        """A client that half-closes still gets an answer that is due; otherwise the connection ends here too."""
        return bool(self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self._stop_idling()
        for timer in self._late:
            timer.cancel()
        self._links.discard(self)
        if not self._links:
            self._links_gone.set()
        self._conversation = None
        self._transport = None

    # -- for conversations

    def answer(self, wire: bytes, *, writes: bool = False, crashed: bool = False, close: bool = True) -> None:
        """Send an answer that is framed already, the way the machine's faults have it."""
        machine = self._machine
        if machine is None:
            return
        if crashed:
            self.reset()
        elif writes and machine.has(Fault.APPLIES_SILENTLY):
            self._stop_idling()
        elif writes and machine.has(Fault.SLOW_WRITE):
            self._send_late(machine.number(Fault.SLOW_WRITE, "seconds"), wire, close=close)
        elif not writes and machine.has(Fault.SLOW_ANSWER):
            self._send_late(machine.number(Fault.SLOW_ANSWER, "seconds"), wire, close=close)
        elif not writes and machine.has(Fault.HALF_CLOSED):
            self._stop_idling()
            begun = int(len(wire) * machine.number(Fault.HALF_CLOSED, "share"))
            self.send(wire[:begun], close=False)
            if (drip_s := machine.number(Fault.HALF_CLOSED, "drip_s")) > 0:
                self._drip(drip_s, wire[begun:])
        else:
            self.send(wire, close=close)

    def send(self, wire: bytes, *, close: bool) -> None:
        """Send bytes as they are."""
        if self._transport is None:
            return
        self._transport.write(wire)
        if close:
            self._transport.close()

    def reset(self) -> None:
        """Close with RST."""
        transport = self._transport
        if transport is None:
            return
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    # -- timers

    def _send_late(self, seconds: float, wire: bytes, *, close: bool) -> None:
        self._stop_idling()
        loop = asyncio.get_running_loop()
        self._late.append(loop.call_later(seconds, lambda: self.send(wire, close=close)))

    def _drip(self, seconds: float, wire: bytes) -> None:
        def drop() -> None:
            self.send(wire[:1], close=False)
            self._drip(seconds, wire[1:])

        if wire and self._transport is not None:
            self._late[:] = [asyncio.get_running_loop().call_later(seconds, drop)]

    def _restart_idle_timer(self) -> None:
        self._stop_idling()
        self._idle_timer = asyncio.get_running_loop().call_later(IDLE_S, self._idle)

    def _idle(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _stop_idling(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


_HTML = b"<!DOCTYPE html><html><head><title>Status</title></head><body><h1>It works!</h1></body></html>"


def spoil(machine: SimulatedMachine, body: bytes) -> bytes:
    """The body of a read's answer as the machine's faults leave it."""
    for fault in machine.faults:
        spoiler = _SPOILERS.get(fault)
        body = spoiler(machine, body) if spoiler else body
    return body


def _garbage(machine: SimulatedMachine, body: bytes) -> bytes:
    if depth := int(machine.number(Fault.GARBAGE, "depth")):
        return b'{"STATUS":' + b"[" * depth + b"]" * depth + b"}"
    return random.Random(machine.seed).randbytes(max(64, len(body)))


def _with_nul_bytes(_: SimulatedMachine, body: bytes) -> bytes:
    middle = body.find(b",", len(body) // 2) + 1
    return body[:middle] + b"\x00" + body[middle:] + b"\x00"


def _without_commas(_: SimulatedMachine, body: bytes) -> bytes:
    if b"},{" in body:
        return body.replace(b"},{", b"}{")
    middle = body.find(b',"', len(body) // 2)
    return body if middle < 0 else body[:middle] + body[middle + 1 :]


def _inflated(machine: SimulatedMachine, body: bytes) -> bytes:
    padding = max(0, int(machine.number(Fault.OVERSIZED, "size")) - len(body) - 12)
    return b'{"debug":"' + b"x" * padding + b'",' + body[1:]


_SPOILERS: dict[Fault, Callable[[SimulatedMachine, bytes], bytes]] = {
    Fault.HTML: lambda _, body: _HTML,
    Fault.GARBAGE: _garbage,
    Fault.OVERSIZED: _inflated,
    Fault.CUT_JSON: lambda _, body: body[: len(body) * 2 // 3],
    Fault.MISSING_COMMAS: _without_commas,
    Fault.NUL_BYTES: _with_nul_bytes,
}
