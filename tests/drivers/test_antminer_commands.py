"""What a command of a stock Antminer costs, and over which connections it goes: one where the machine keeps it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from drivers import commands, connection
from drivers._pyasic import AntminerRpc
from drivers.antminer_slow import SlowFacts
from drivers.connect import connect
from drivers.driver import Driver, NoAnswer, ReadOptions, Said
from drivers.reading import Address, Family, Identity, RunState
from drivers.reads import endpoint
from tests.agent.builders import eventually

PATIENT = ReadOptions(deadline_s=60.0, connect_s=60.0, call_s=60.0, write_s=60.0)
MAC = "02:00:00:00:00:01"
WHO, SET, POST = "get_system_info", "get_miner_conf", "set_miner_conf"
PAGES = {
    WHO: {"macaddr": MAC, "serinum": "S1", "minertype": "Antminer S19j Pro"},
    SET: {
        "pools": [{"url": "stratum+tcp://pool.example:3333", "user": "a.b", "pass": "x"}],
        "bitmain-work-mode": "0",
    },
    POST: {"stats": "success", "code": "M000", "msg": "OK!"},
    "summary": {"SUMMARY": []},
}


class Web:
    """A web interface without a login. What it was asked, by connection; `keeps` is how many answers it gives over one
    connection, after which it `ends` it: closes it as it `says` or without a word, or falls silent."""

    def __init__(self, keeps: int, ends: str = "says") -> None:
        self._keeps, self._ends = keeps, ends
        self.asked: dict[asyncio.Transport, list[str]] = {}

    def __call__(self, received: bytes, transport: asyncio.Transport) -> None:
        head, _, body = received.rpartition(b"\r\n\r\n")
        if b"Content-Length" in head.rpartition(b"HTTP/1.1")[2] and not body:
            return
        name = head.rpartition(b"/cgi-bin/")[2].partition(b".cgi")[0].decode()
        asked = self.asked.setdefault(transport, [])
        asked.append(name)
        if len(asked) > self._keeps:
            if self._ends == "without a word":
                transport.close()
            return
        last = len(asked) == self._keeps and self._ends == "says"
        body = json.dumps(PAGES[name]).encode()
        close = "Connection: close\r\n" if last else ""
        transport.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{close}\r\n".encode() + body)
        if last:
            transport.close()

    @property
    def connections(self) -> list[list[str]]:
        return list(self.asked.values())


@pytest.fixture
async def commanded(servers, network) -> Callable[..., object]:
    """An Antminer with such a web interface, and its driver."""

    async def build(*how: object, options: ReadOptions = PATIENT) -> tuple[Web, Driver]:
        web, host = Web(*how), f"{network}.1"
        await servers.listen(host, 80, web)
        identity = Identity(
            family=Family.ANTMINER, make="Antminer", model="Antminer S19j Pro", firmware=None, mac=MAC, serial="S1",
            driver_class="",
        )  # fmt: skip
        return web, connect(identity, Address(host=host), options=options)

    return build


async def test_a_command_and_what_it_puts_back_take_one_connection(
    servers, commanded, leftovers, network
) -> None:
    web, driver = await commanded(99)
    with leftovers(within_s=60.0):
        point = await driver.restore_point()
        assert (await driver.sleep()).said is Said.OK
    assert web.connections == [[WHO, SET, POST]]
    assert (
        servers.traffic.bytes_in - 3 * len(f"{network}.1") == 583
    )  # without the host, which each request names
    with leftovers(within_s=60.0):
        assert (await driver.wake(point)).said is Said.OK
    assert web.connections[1:] == [[WHO, SET, POST]]


@pytest.mark.parametrize("ends", ["says", "without a word"])
async def test_a_machine_that_closes_after_each_answer_is_asked_over_new_connections(
    commanded, leftovers, ends
) -> None:
    web, driver = await commanded(1, ends)
    with leftovers(within_s=60.0):
        await driver.restore_point()
        receipt = await driver.sleep()
    told = [name for asked in web.connections for name in asked]
    if ends == "says":
        assert web.connections == [[WHO], [SET], [POST]]
        assert receipt.said is Said.OK
    else:  # what is only read is asked again; a post that got no answer never is
        assert told.count(POST) == 1
        assert receipt.said is Said.SILENT


async def test_after_a_post_that_was_lost_on_a_kept_connection_the_next_has_one_of_its_own(
    commanded,
) -> None:
    web, driver = await commanded(2, "without a word")
    await driver.restore_point()
    assert (await driver.sleep()).said is Said.SILENT
    assert (await driver.sleep()).said is Said.OK
    assert web.connections == [[WHO, SET, POST], [WHO], [SET], [POST]]


async def test_one_that_answers_no_second_page_on_a_connection_costs_one_failure(commanded) -> None:
    web, driver = await commanded(1, "falls silent", options=replace(PATIENT, call_s=1.0))
    with pytest.raises(NoAnswer):
        await driver.restore_point()
    await driver.restore_point()
    assert web.connections == [[WHO, SET], [WHO], [SET]]


async def test_no_post_goes_over_a_connection_that_was_idle_for_long(commanded, monkeypatch) -> None:
    web, driver = await commanded(99)
    await driver.restore_point()
    monkeypatch.setattr(connection, "FRESH_S", 0.0)
    assert (await driver.sleep()).said is Said.OK
    assert web.connections == [[WHO, SET], [POST]]


async def test_a_connection_that_no_command_follows_on_is_closed(commanded, monkeypatch) -> None:
    web, driver = await commanded(99)
    monkeypatch.setattr(commands, "PREPARED_FOR_S", 0.05)
    await driver.restore_point()
    (kept,) = web.asked
    await eventually(kept.is_closing)
    assert (await driver.sleep()).said is Said.OK


async def test_what_is_read_rarely_takes_one_connection(commanded, leftovers) -> None:
    web, driver = await commanded(99)
    rpc = AntminerRpc(endpoint(driver.address, 4028, PATIENT))
    with leftovers(within_s=60.0):
        await SlowFacts(driver.identity, driver.address, PATIENT, rpc).refresh(hashing=True)
    assert web.connections == [[SET, WHO, "summary"]]


async def test_a_login_that_a_reading_met_serves_the_command(servers, identified, quick, network) -> None:
    machine = await servers.machine("antminer/s19j-pro", f"{network}.1")
    driver = connect(await identified(machine.address), machine.address, options=quick)
    assert (await driver.read()).run_state is RunState.MINING
    met: list[bool] = []
    authorized = machine._authorized
    machine._authorized = lambda request: met.append(authorized(request)) or met[-1]
    await driver.restore_point()
    assert met == [True, True]
