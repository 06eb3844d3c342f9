"""A connection to the fleet's servers, when one of them takes nothing more."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import pytest

pytest.importorskip("nats")

from agent.federation import connection
from agent.federation.connection import Contact, Servers, connected
from agent.simulated.nats import free_port
from tests.agent.builders import eventually

INFO = {
    "server_id": "x",
    "version": "2.10.0",
    "host": "h",
    "port": 1,
    "max_payload": 1 << 20,
    "headers": True,
}
# nats-py leaves sockets of servers that went away to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
MB = b"x" * 1_000_000


@asynccontextmanager
async def stopped_server():
    """A server that greets, and reads nothing after that; gives its address and who came."""
    came = []

    async def serve(reader, writer):
        came.append(writer)
        writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
        while not (await reader.readline()).startswith(b"PING"):
            pass
        writer.write(b"PONG\r\n")
        writer.transport.pause_reading()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", came
    finally:
        server.close()
        for writer in came:
            writer.transport.abort()


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(connection, "RECONNECT_AFTER_S", 0.1)
    monkeypatch.setattr(connection, "CLOSE_WITHIN_S", 0.5)
    monkeypatch.setattr(connection, "CONNECT_WITHIN_S", 60)


async def fill(client):
    """More than the buffers on the way hold; it is still on its way when this returns."""
    while client._transport._io_writer.transport.get_write_buffer_size() == 0:
        await client.publish("a", MB)
        await asyncio.sleep(0.01)


@pytest.mark.timeout(120)
async def test_a_server_that_reads_nothing_any_more_is_left_for_another(monkeypatch):
    monkeypatch.setattr(connection, "PING_S", 0.5)
    async with stopped_server() as (address, came):
        async with connected(Servers(addresses=(address,), name="denver")) as client:
            await fill(client)
            await eventually(lambda: len(came) > 1)
            client.options["ping_interval"] = 600.0  # this one is kept
            await eventually(lambda: client.is_connected)
        assert client.is_closed


@pytest.mark.timeout(120)
@pytest.mark.parametrize("resets", [False, True])
async def test_work_ends_when_it_is_cancelled_whatever_its_server_does_then(resets):
    async with stopped_server() as (address, came):
        full = asyncio.Event()

        async def work(client):
            await fill(client)
            await client.publish("a", MB)
            full.set()
            await asyncio.Event().wait()

        keeping = asyncio.create_task(Contact(Servers(addresses=(address,), name="denver"), "x").keep(work))
        await full.wait()
        keeping.cancel()
        if resets:
            asyncio.get_running_loop().call_later(0.05, came[0].transport.abort)
        await asyncio.wait([keeping])
        assert keeping.cancelled()
        assert len(came) == 1


@pytest.mark.timeout(120)
async def test_what_a_server_complains_of_at_each_connection_is_told_once(monkeypatch, lines):
    monkeypatch.setattr(connection, "RETRY_S", (0.01, 0.01))
    connections = 0

    async def complain(reader, writer):
        writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n-ERR 'Permissions Violation'\r\n")
        writer.close()

    async def work(client):
        nonlocal connections
        await client.flush()
        connections += 1
        raise OSError("it is closed")

    server = await asyncio.start_server(complain, "127.0.0.1", 0)
    address = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    keeping = asyncio.create_task(Contact(Servers(addresses=(address,), name="denver"), "x").keep(work))
    await eventually(lambda: connections > 3)
    keeping.cancel()
    await asyncio.wait([keeping])
    server.close()
    assert len(lines("event=nats_error")) == 1
    assert len(lines("event=x_unreachable")) == 1


@pytest.mark.timeout(120)
async def test_servers_that_are_away_at_first_are_told_once_and_that_they_are_there_once(lines):
    async def greet(reader, writer):
        writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    port, there = free_port(), asyncio.Event()

    async def work(_):
        there.set()
        await asyncio.Event().wait()

    servers = Servers(addresses=(f"nats://127.0.0.1:{port}",), name="denver")
    keeping = asyncio.create_task(Contact(servers, "x").keep(work))
    await eventually(lambda: lines("event=nats_error"))
    await asyncio.sleep(0.5)  # some tries more
    assert lines("event=nats_connected") == []
    server = await asyncio.start_server(greet, "127.0.0.1", port)
    await there.wait()
    keeping.cancel()
    await asyncio.wait([keeping])
    server.close()
    assert len(lines("event=nats_error")) == len(lines("event=nats_connected")) == 1


async def swallow():
    """Wait as nats-py does where an answer comes at the moment of a cancellation: that is not heard of."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@pytest.mark.parametrize("comes", [True, False])
async def test_work_ends_when_its_cancellation_was_swallowed_with_an_answer(monkeypatch, comes):
    """`comes` is whether something came of the work after that, or it failed."""
    monkeypatch.setattr(connection, "RETRY_S", (600.0, 600.0))
    waits = asyncio.Event()

    async def work(client):
        waits.set()
        await swallow()
        if not comes:
            raise TimeoutError
        contact.reached()
        await asyncio.Event().wait()

    async with stopped_server() as (address, came):
        contact = Contact(Servers(addresses=(address,), name="denver"), "x")
        keeping = asyncio.create_task(contact.keep(work))
        await waits.wait()
        keeping.cancel()
        done, _ = await asyncio.wait([keeping], timeout=60)
        keeping.cancel()
        assert done
        assert keeping.cancelled()
        assert len(came) == 1
