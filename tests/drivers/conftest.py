"""Machines for the drivers' tests: recorded answers replayed at the level of the real protocols, and peers that
misbehave byte by byte; and the proof that a read leaves no task and no socket behind."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from blockbuster import blockbuster_ctx

from drivers.discovery import scan
from drivers.driver import ReadOptions
from drivers.reading import Address, Identity
from tests.loops import IdleTimeLoop

CORPUS = Path(__file__).parent / "corpus"
MINER_PORTS = {4028, 4433, 80, 6060}
QUICK = ReadOptions(deadline_s=2.5, connect_s=0.4, call_s=0.8, slow_interval_s=600.0)
LATE_S = 0.6
"""How much later than its deadline a read may end."""

LOOPS = {"asyncio": IdleTimeLoop, "uvloop": uvloop.new_event_loop}
ON_BOTH_LOOPS = {"test_transport.py", "test_connection.py"}
"""The agent runs on uvloop, the simulated site on asyncio. What touches sockets must hold on either."""


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """On which event loops a test runs."""
    return LOOPS if item.path.name in ON_BOTH_LOOPS else {"asyncio": LOOPS["asyncio"]}


@pytest.fixture(autouse=True)
def never_blocks() -> Iterator[None]:
    """No driver blocks the event loop."""
    with blockbuster_ctx(scanned_modules=["drivers"], excluded_modules=["drivers.simulator"]):
        yield


@pytest.fixture
def quick() -> ReadOptions:
    """Options whose deadlines do not make the tests slow."""
    return QUICK


@pytest.fixture
def network() -> str:
    """The first three octets of addresses that belong to this test process alone."""
    return f"127.{100 + os.getpid() % 8}.{os.getpid() // 8 % 256}"


# -- what a read leaves behind ---------------------------------------------------------------------------


def client_sockets() -> set[str]:
    """This process's sockets that are connected, or connecting, to a port of a machine."""
    ours = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            match = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
            if match:
                ours.add(match[1])
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if int(row[2].rpartition(":")[2], 16) in MINER_PORTS} & ours


class Leftovers:
    """`with leftovers(within_s=...)`: afterwards no new task, no new client socket, and it did not take longer; the
    last only on a loop whose time is not the host's."""

    @contextlib.contextmanager
    def __call__(self, *, within_s: float) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        tasks, sockets, began_s = asyncio.all_tasks(), client_sockets(), loop.time()
        yield
        took_s = loop.time() - began_s
        assert asyncio.all_tasks() - tasks == set(), "a task was left behind"
        assert client_sockets() - sockets == set(), "a socket was left behind"
        if isinstance(loop, IdleTimeLoop):
            assert took_s < within_s + LATE_S, f"took {took_s:.2f} s"


@pytest.fixture
def leftovers() -> Leftovers:
    """The check above."""
    return Leftovers()


# -- servers ---------------------------------------------------------------------------------------------

Behave = Callable[[bytes, asyncio.Transport], None]


class Peer(asyncio.Protocol):
    """One accepted connection: collects what arrives and lets `behave` do whatever it likes, once per arrival."""

    def __init__(self, behave: Behave, alive: set[asyncio.Transport], traffic: "Traffic") -> None:
        self._behave, self._alive, self._received, self._traffic = behave, alive, b"", traffic

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        self._alive.add(self._transport)
        self._traffic.connections += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._traffic.bytes_in += len(data)
        self._behave(self._received, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._alive.discard(self._transport)


@dataclass
class Traffic:
    """What came in."""

    connections: int = 0
    bytes_in: int = 0


class Servers:
    """Listens on loopback ports until the test ends."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.traffic = Traffic()

    async def listen(self, host: str, port: int, behave: Behave) -> None:
        """Let `behave` answer on one port."""
        alive: set[asyncio.Transport] = set()
        server = await asyncio.get_running_loop().create_server(
            lambda: Peer(behave, alive, self.traffic), host, port, reuse_address=True
        )

        async def close() -> None:
            server.close()
            for transport in list(alive):
                transport.abort()
            while alive:
                await asyncio.sleep(0)
            await asyncio.sleep(0)

        self._stack.push_async_callback(close)

    async def machine(self, recorded: str, host: str, *, closed: Collection[int] = ()) -> "Replayed":
        """A machine of the corpus on its family's usual ports, without those that are closed."""
        machine = Replayed(recorded, host)
        for port, behave in machine.ports().items():
            if port not in closed:
                await self.listen(host, port, behave)
        return machine


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    """Servers of this test."""
    async with contextlib.AsyncExitStack() as stack:
        yield Servers(stack)


class Replayed:
    """A recorded machine. `said` may be changed by a test; `asked` is what it was asked."""

    def __init__(self, recorded: str, host: str) -> None:
        folder = CORPUS / recorded
        self.family = recorded.partition("/")[0]
        self.host = host
        self.said: dict[str, Any] = {
            path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")
        }
        power = folder / "port_6060.txt"
        self.power_page = power.read_text() if power.exists() else None
        self.asked: list[str] = []
        self.password = "root"
        self.web_behave: Behave | None = None
        self.rpc_behave: Behave | None = None

    @property
    def address(self) -> Address:
        return Address(host=self.host)

    def ports(self) -> dict[int, Behave]:
        """What it listens on."""
        ports: dict[int, Behave] = (
            {4433: self._framed} if self.family == "whatsminer_v3" else {4028: self._rpc}
        )
        if "web_get_system_info" in self.said:
            ports[80] = self._web
        if self.power_page is not None:
            ports[6060] = self._power
        return ports

    def _rpc(self, received: bytes, transport: asyncio.Transport) -> None:
        if self.rpc_behave is not None:
            self.rpc_behave(received, transport)
            return
        request = json.loads(received)
        name = request["command"] + ("_new_api" if request.get("new_api") else "")
        self.asked.append(name)
        refusal = {"STATUS": [{"STATUS": "E", "Code": 14, "Msg": "Invalid command"}], "id": 1}
        transport.write(json.dumps(self.said.get(name, refusal)).encode() + b"\x00")
        transport.close()

    def _framed(self, received: bytes, transport: asyncio.Transport) -> None:
        if self.rpc_behave is not None:
            self.rpc_behave(received, transport)
            return
        request = json.loads(last_frame(received))
        name = "_".join([request["cmd"].replace(".", "_"), *filter(None, [request.get("param")])])
        self.asked.append(name)
        body = json.dumps(self.said.get(name, {"code": -1, "msg": "invalid command"})).encode()
        transport.write(len(body).to_bytes(4, "little") + body)

    def _web(self, received: bytes, transport: asyncio.Transport) -> None:
        if b"\r\n\r\n" not in received:
            return
        if self.web_behave is not None:
            self.web_behave(received, transport)
            return
        path = received.split(b" ", 2)[1].decode()
        name = "web_" + path.removeprefix("/cgi-bin/").removesuffix(".cgi")
        if not self._authorized(received.decode()):
            realm = 'WWW-Authenticate: Digest realm="antMiner Configuration", nonce="5d1e", qop="auth"\r\n'
            http(transport, 401, b"<html>401</html>", realm)
            return
        self.asked.append(name)
        body = json.dumps(self.said[name]).encode() if name in self.said else b"<html>404</html>"
        http(transport, 200 if name in self.said else 404, body)

    def _authorized(self, request: str) -> bool:
        """RFC 7616 with MD5 and qop=auth."""
        given = dict(
            re.findall(r'(\w+)="?([^",\r]+)"?', request.partition("Digest ")[2].partition("\r\n")[0])
        )
        if not given:
            return False
        ha1 = md5(f"root:antMiner Configuration:{self.password}")
        ha2 = md5(f"GET:{given['uri']}")
        parts = (ha1, given["nonce"], given["nc"], given["cnonce"], given["qop"], ha2)
        return given["response"] == md5(":".join(parts))

    def _power(self, received: bytes, transport: asyncio.Transport) -> None:
        if received.endswith(b"\r\n\r\n"):
            self.asked.append("port_6060")
            http(transport, 200, (self.power_page or "").encode())


def last_frame(received: bytes) -> bytes:
    """The body of the last of several requests with their length in front."""
    while received:
        length = int.from_bytes(received[:4], "little")
        body, received = received[4 : 4 + length], received[4 + length :]
    return body


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def http(transport: asyncio.Transport, status: int, body: bytes, headers: str = "") -> None:
    """One HTTP response, then the end of the connection."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    transport.write(head.encode() + body)
    transport.close()


# -- peers that misbehave ----------------------------------------------------------------------------------


def hang(_: bytes, __: asyncio.Transport) -> None:
    """Takes everything and says nothing."""


def reset(_: bytes, transport: asyncio.Transport) -> None:
    """Breaks the connection."""
    transport.abort()


def says(body: bytes, *, close: bool = True) -> Behave:
    """Answers with just these bytes."""

    def behave(_: bytes, transport: asyncio.Transport) -> None:
        transport.write(body)
        if close:
            transport.close()

    return behave


class Misbehaviour:
    """Peers by name, for tests that cannot import from here."""

    hang = staticmethod(hang)
    reset = staticmethod(reset)
    says = staticmethod(says)
    http = staticmethod(http)


@pytest.fixture
def peers() -> type[Misbehaviour]:
    """Peers that misbehave."""
    return Misbehaviour


@pytest.fixture
def identified() -> Callable[..., Any]:
    """Finds the one machine at an address, by a scan."""

    async def identify(address: Address, options: ReadOptions = QUICK) -> Identity:
        result = await scan([address], options=options)
        assert len(result.found) == 1, result
        return result.found[0][1]

    return identify
