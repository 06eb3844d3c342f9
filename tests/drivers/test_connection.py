"""Several questions in a row, over one connection where the machine keeps it: never the answer to another question."""

import asyncio
import contextlib
import json
import re
import time
from typing import Any

import pytest

from drivers.connection import Connection, Endpoint, Line
from drivers.driver import ConnectionLost, Malformed, NoAnswer
from drivers.transport import CgminerAnswer, FramedAnswer, ask_framed


def endpoint(network: str) -> Endpoint:
    host = f"{network}.1"
    return Endpoint(name=host, host=host, port=4433, connect_s=0.3, call_s=0.4, max_bytes=1 << 16)


def framed(answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer).encode()
    return len(body).to_bytes(4, "little") + body


class Echo:
    """Answers every question with its `cmd`; `answers` is how many it answers on one connection, after which it is
    silent, or closes if it `closes`."""

    def __init__(self, answers: int = 99, *, closes: bool = False, surplus: bytes = b"") -> None:
        self._answers, self._closes, self._surplus = answers, closes, surplus

    def __call__(self, received: bytes, transport: asyncio.Transport) -> None:
        bodies = re.findall(rb'"cmd": "(\w+)"', received)
        if len(bodies) <= self._answers:
            transport.write(framed({"to": bodies[-1].decode()}) + self._surplus)
        if self._closes and len(bodies) >= self._answers:
            transport.close()


async def ask(line: Line, network: str, *names: str) -> list[str]:
    return [(await ask_framed(endpoint(network), {"cmd": name}, line))["to"] for name in names]


@pytest.fixture
async def line(network):
    found = Line(endpoint(network))
    yield found
    await found.hang_up()


async def test_a_machine_that_keeps_its_connection_is_asked_over_one(
    servers, network, line, leftovers
) -> None:
    await servers.listen(f"{network}.1", 4433, Echo())
    with leftovers(within_s=0.1):
        assert await ask(line, network, "a", "b", "c") == ["a", "b", "c"]
        await line.hang_up()
    assert servers.traffic.connections == 1


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
async def test_one_that_closes_after_each_answer_is_asked_over_new_ones(
    servers, network, line, pause_s
) -> None:
    await servers.listen(f"{network}.1", 4433, Echo(1, closes=True))
    for name in "abc":
        assert await ask(line, network, name) == [name]
        await asyncio.sleep(pause_s)
    assert servers.traffic.connections == 3


async def test_one_that_falls_silent_on_its_connection_costs_one_failure(servers, network, line) -> None:
    await servers.listen(f"{network}.1", 4433, Echo(1))
    with pytest.raises(NoAnswer) as caught:
        await ask(line, network, "a", "b")
    assert caught.value.sent
    assert await ask(line, network, "a", "b", "c") == ["a", "b", "c"]


async def test_one_that_says_something_else_on_its_connection_costs_one_failure(
    servers, network, line
) -> None:
    def garbled(received: bytes, transport: asyncio.Transport) -> None:
        first = received.count(b"cmd") == 1
        transport.write(framed({"to": "a"}) if first else (2).to_bytes(4, "little") + b"<>")

    await servers.listen(f"{network}.1", 4433, garbled)
    with pytest.raises(Malformed):
        await ask(line, network, "a", "a")
    assert await ask(line, network, "a", "a") == ["a", "a"]
    assert servers.traffic.connections == 3


async def test_what_comes_unasked_is_never_taken_for_the_next_answer(servers, network, line) -> None:
    await servers.listen(f"{network}.1", 4433, Echo(surplus=framed({"to": "somebody else"})))
    assert await ask(line, network, "a", "b", "c") == ["a", "b", "c"]
    assert servers.traffic.connections == 3


async def test_an_answer_that_was_given_up_is_never_taken_for_the_next(servers, network, line) -> None:
    def late(received: bytes, transport: asyncio.Transport) -> None:
        delay_s = 0.1 if b"slow" in received else 0.0
        name = json.loads(received[received.rindex(b"{") :])["cmd"]
        asyncio.get_running_loop().call_later(delay_s, transport.write, framed({"to": name}))

    await servers.listen(f"{network}.1", 4433, late)
    assert await ask(line, network, "a") == ["a"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await ask(line, network, "slow")
    assert await ask(line, network, "b") == ["b"]


async def test_a_first_question_is_not_repeated(servers, network, line, peers) -> None:
    await servers.listen(f"{network}.1", 4433, peers.reset)
    with pytest.raises(ConnectionLost):
        await ask(line, network, "a")
    assert servers.traffic.connections == 1


async def test_a_connection_that_was_never_opened_closes(network) -> None:
    connection = Connection(endpoint(network))
    assert not connection.usable
    await connection.close()


async def test_the_answer_is_taken_out_of_what_came() -> None:
    received = bytearray(framed({"a": 1}) + b"more")
    assert FramedAnswer(endpoint("127.0.0"))(received, False) == {"a": 1}
    assert received == b"more"


async def test_a_connection_may_end_when_nobody_waits_for_it_any_more(
    servers, network, peers, caplog
) -> None:
    """Who waited for its end was cancelled, as when the agent stops."""
    address = endpoint(network)
    await servers.listen(address.host, address.port, peers.hang)
    connection = Connection(address)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await connection.ask(b"x", CgminerAnswer())
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    await asyncio.sleep(0.05)
    assert "invalid state" not in caplog.text
    await connection.close()


async def test_a_line_whose_hanging_up_was_broken_off_is_asked_again(servers, network, line) -> None:
    """The deadline of a reading may pass just then. The machine was blind from then on, and took a worker with it in
    every round: seen on a busy host."""
    await servers.listen(f"{network}.1", 4433, Echo())
    assert await ask(line, network, "a") == ["a"]
    hanging_up = asyncio.create_task(line.hang_up())
    await asyncio.sleep(0)
    hanging_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging_up
    assert await ask(line, network, "b") == ["b"]


class OpenedAtTheLastMoment(Connection):
    """The host stands still for as long as a connection may take, just as the machine has accepted it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        time.sleep(self._endpoint.connect_s + 0.05)


async def test_one_that_opens_as_its_time_runs_out_is_closed_and_asked_again(
    servers, network, line, monkeypatch
) -> None:
    """A host that was suspended finds both when it goes on. uvloop gives up then and never says that the connection
    closed; asyncio goes on with it."""
    await servers.listen(f"{network}.1", 4433, Echo())
    with monkeypatch.context() as host, contextlib.suppress(NoAnswer):
        host.setattr("drivers.connection.Connection", OpenedAtTheLastMoment)
        await ask(line, network, "a")
    async with asyncio.timeout(60):
        assert await ask(line, network, "b", "c") == ["b", "c"]
