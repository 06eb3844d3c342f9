"""The site's listening sockets: one per machine and port, or, on a large site, one per port for everybody.

The shared kind binds 0.0.0.0 to the loopback device and tells machines apart by the address that was called. Either
way a filter on the socket can swallow connection attempts, which is how a host that is down looks from outside.
"""

import asyncio
import ctypes
import errno
import ipaddress
import resource
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from drivers.simulator.faults import Fault
from drivers.simulator.link import Conversation, Link
from drivers.simulator.machine import SimulatedMachine

BACKLOG = 4096
ACCEPTED_AT_ONCE = 100
"""Connections that the event loop takes in one go; asyncio knows it only as its backlog."""
SPARE_FILES = 4096
"""Open files kept for connections and everything else."""
FILTERED_ADDRESSES = 400
"""More silent hosts than this do not fit into one socket filter; the rest hang instead."""
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOAD_DESTINATION = (0x20, 0, 0, (-0x100000 + 16) & 0xFFFFFFFF)
_ACCEPT, _DROP = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - on the loopback device only

Converse = Callable[[SimulatedMachine, int, Link], Conversation | None]


class ListenError(Exception):
    """A socket could not be had; the message names address and port."""


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as it may; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(slots=True, eq=False)
class _Ear:
    """One listening socket: the kernel queues connections from the start, the event loop takes them a little later."""

    sock: socket.socket
    closed: bool = False

    def close(self) -> None:
        """Stop listening; connections that were accepted live on.

        Not by `Server.close`: asyncio forgets, unclosed, what it accepts while a server closes.
        """
        self.closed = True
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.sock.close()


class Listeners:
    """Listening sockets and the connections they accepted. `shared` is decided by the number of sockets needed."""

    def __init__(
        self, converse: Converse, machines: Iterable[SimulatedMachine], *, shared: bool | None = None
    ) -> None:
        self._machines = {machine.address: machine for machine in machines}
        needed = sum(len(machine.ports) for machine in self._machines.values()) + SPARE_FILES
        self.shared = needed > raise_file_limit() if shared is None else shared
        self.closed_ports: frozenset[int] = frozenset()
        """Ports that this process may not bind."""
        self._converse = converse
        self._ears: dict[str, list[_Ear]] = {}
        self._unserved = asyncio.Queue[_Ear]()
        self._links: set[Link] = set()
        self._links_gone = asyncio.Event()
        self._silent: list[str] = []
        self._open = False

    def open(self) -> None:
        """Bind for all machines, or for none. Raises ListenError."""
        self._open = True
        try:
            self._bind()
        except ListenError:
            self._close_ears()
            raise

    async def run(self, up: asyncio.Event) -> None:
        """Take connections until cancelled, then close everything. Sets `up` once every machine can be reached."""
        try:
            while True:
                if self._unserved.empty():
                    up.set()
                await self._serve(await self._unserved.get())
        finally:
            await self._close()

    def at(self, address: str) -> SimulatedMachine | None:
        """The machine at an address."""
        return self._machines.get(address)

    def readdress(self, placed: dict[str, SimulatedMachine | None]) -> None:
        """Give addresses to machines, or to nobody. The machines learn their addresses. Raises ListenError."""
        for address in placed:
            self._machines.pop(address, None)
            self._close_at(address)
        for address, machine in placed.items():
            if machine is not None:
                machine.address = address
                self._machines[address] = machine
                self._listen_for(machine)
        self._refilter(filter(None, placed.values()))

    def faults_changed(self, machines: Iterable[SimulatedMachine]) -> None:
        """Stop or resume listening, as the machines' faults have it."""
        machines = tuple(machines)
        for machine in machines:
            if machine.has(Fault.REFUSES):
                self._close_at(machine.address)
            elif not self._ears.get(machine.address):
                self._listen_for(machine)
        self._refilter(machines)

    # -- inside

    def _bind(self) -> None:
        machines = tuple(self._machines.values())
        ports = {port for machine in machines for port in machine.ports}
        host = _EVERYWHERE if self.shared else machines[0].address
        self.closed_ports = frozenset(port for port in ports if not _may_bind(host, port, shared=self.shared))
        if self.shared:
            for port in sorted(ports - self.closed_ports):
                self._listen(host, port)
        else:
            for machine in machines:
                self._listen_for(machine)
        self._refilter(machines)

    def _listen_for(self, machine: SimulatedMachine) -> None:
        if self.shared or not self._open or machine.has(Fault.REFUSES):
            return
        for port in machine.ports:
            if port not in self.closed_ports:
                self._listen(machine.address, port)

    def _listen(self, host: str, port: int) -> None:
        ear = _Ear(_bound(host, port, shared=self.shared))
        self._ears.setdefault(host, []).append(ear)
        self._unserved.put_nowait(ear)

    async def _serve(self, ear: _Ear) -> None:
        if not ear.closed:
            loop = asyncio.get_running_loop()
            await loop.create_server(self._link, sock=ear.sock, backlog=ACCEPTED_AT_ONCE)
            if not ear.closed:
                ear.sock.listen(BACKLOG)

    def _link(self) -> Link:
        return Link(self._called, self._converse, self._links, self._links_gone)

    def _close_at(self, address: str) -> None:
        for ear in self._ears.pop(address, []):
            ear.close()

    def _called(self, address: str) -> SimulatedMachine | None:
        return self._machines.get(address) if self._open else None

    def _close_ears(self) -> None:
        self._open = False
        for address in tuple(self._ears):
            self._close_at(address)

    async def _close(self) -> None:
        self._close_ears()
        # connections accepted a moment ago find nobody, and are reset
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._links_gone.clear()
        for link in tuple(self._links):
            link.reset()
        if self._links:
            await self._links_gone.wait()

    def _refilter(self, changed: Iterable[SimulatedMachine]) -> None:
        """Swallow connection attempts to the machines that are down, and to no others."""
        if not self.shared:
            for machine in changed:
                silent = [machine.address] if machine.has(Fault.NO_ANSWER) else []
                self._swallow_at(machine.address, silent)
            return
        silent = [m.address for m in self._machines.values() if m.has(Fault.NO_ANSWER)][:FILTERED_ADDRESSES]
        if silent != self._silent:
            self._silent = silent
            self._swallow_at(_EVERYWHERE, silent)

    def _swallow_at(self, host: str, addresses: list[str]) -> None:
        for ear in self._ears.get(host, []):
            _swallow(ear.sock, addresses)


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    if not shared and not ipaddress.ip_address(host).is_loopback:
        raise ListenError(f"{host}: not a loopback address")
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\x00")
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(f"{host}:{port}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def _may_bind(host: str, port: int, *, shared: bool) -> bool:
    """Whether this process has the privilege; any other trouble is raised."""
    try:
        _bound(host, port, shared=shared).close()
    except ListenError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EACCES:
            return False
        raise
    return True


def _swallow(sock: socket.socket, addresses: list[str]) -> None:
    """Attach a filter that drops packets to these addresses; accepted connections inherit it harmlessly."""
    if not addresses:
        _detach(sock)
        return
    words = [struct.unpack("!I", socket.inet_aton(address))[0] for address in addresses]
    # jump offsets are 8 bits wide, so every comparison has a drop of its own
    steps = [step for word in words for step in ((0x15, 0, 1, word), _DROP)]
    program = b"".join(struct.pack("HBBI", *step) for step in (_LOAD_DESTINATION, *steps, _ACCEPT))
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


def _detach(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
