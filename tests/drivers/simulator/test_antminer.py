"""Stock Antminers, by raw sockets and plain HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from drivers.reading import Family, PowerMode, RunState
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.models import WattsShown
from drivers.simulator.site import Site, SiteSpec

NETWORK = "127.80.2.0/24"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(
        SiteSpec(machines=60, network=NETWORK, speed=3_000), monotonic=asyncio.get_running_loop().time
    ) as running:
        yield running


def shows(where: WattsShown) -> Callable[[SimulatedMachine], bool]:
    return lambda machine: machine.firmware.watts_shown is where


class Web:
    """A browser with the right password."""

    def __init__(self, address: str, password: str = "root") -> None:
        self.address = address
        self.client = httpx.AsyncClient(auth=httpx.DigestAuth("root", password), trust_env=False)

    async def get(self, name: str) -> httpx.Response:
        return await self.client.get(f"http://{self.address}/cgi-bin/{name}.cgi")

    async def post(self, name: str, body: Any) -> httpx.Response:
        return await self.client.post(f"http://{self.address}/cgi-bin/{name}.cgi", json=body)


@pytest.fixture
async def browse() -> AsyncIterator[Callable[..., Web]]:
    opened: list[Web] = []

    def open_(*arguments: str) -> Web:
        opened.append(Web(*arguments))
        return opened[-1]

    yield open_
    for web in opened:
        await web.client.aclose()


async def until(site: Site, address: str, state: RunState) -> None:
    async with asyncio.timeout(60):
        while site.truth(address).run_state is not state:
            await asyncio.sleep(0.01)


async def test_reads_have_the_captured_shapes(site: Site, pick: Callable, clients: Any) -> None:
    machine = pick(site, Family.ANTMINER, lambda m: m.exemplar.boards == 3 and m.exemplar.fans == 4)
    version = await clients.rpc(machine.address, "version")
    assert version["VERSION"][0]["Type"] == machine.exemplar.reported
    summary = (await clients.rpc(machine.address, "summary"))["SUMMARY"][0]
    truth = site.truth(machine.address)
    assert summary["GHS 5s"] / 1000 == pytest.approx(truth.hashrate_ths, rel=0.05)
    stats = (await clients.rpc(machine.address, "stats"))["STATS"]
    assert stats[0]["Type"] == machine.exemplar.reported
    assert [stats[1][f"fan{n}"] > 3_000 for n in (1, 2, 3, 4)] == [True] * 4
    assert sum(float(stats[1][f"chain_rate{n}"]) for n in (1, 2, 3)) / 1000 == pytest.approx(
        truth.hashrate_ths, rel=0.05
    )
    assert stats[1]["total_rateideal"] == machine.exemplar.hashrate_ths * 1000
    pools = (await clients.rpc(machine.address, "pools"))["POOLS"]
    assert [p["Status"] for p in pools] == ["Alive"] * 3
    assert (await clients.rpc(machine.address, "devs"))["DEVS"][0]["Name"] == "BTM_SOC"
    assert "DEVDETAILS" in await clients.rpc(machine.address, "devdetails")
    raw = await clients.tcp(machine.address, 4028, b'{"command":"version"}')
    assert raw.endswith(b"\x00")


async def test_joined_unknown_and_broken_requests_are_refused(
    site: Site, pick: Callable, clients: Any
) -> None:
    machine = pick(site, Family.ANTMINER)
    for command, code in (("summary+stats", 14), ("nonsense", 14)):
        assert (await clients.rpc(machine.address, command))["STATUS"][0]["Code"] == code
    for request in (b"hello\n", b"[" * 9_000, b'"version"', b'{"x":' + b"[" * 9_000 + b"]" * 9_000 + b"}"):
        answer = await clients.tcp(machine.address, 4028, request)
        assert json.loads(answer.rstrip(b"\x00"))["STATUS"][0]["Code"] == 23


async def test_a_request_may_arrive_in_pieces(site: Site, pick: Callable) -> None:
    machine = pick(site, Family.ANTMINER)
    reader, writer = await asyncio.open_connection(machine.address, 4028)
    for piece in (b'{"comm', b'and":', b'"version"}'):
        writer.write(piece)
        await asyncio.sleep(0.02)
    assert b"VERSION" in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("family", "port", "begin"),
    [
        (Family.ANTMINER, 4028, b'{"command":"'),
        (Family.ANTMINER, 80, b"GET /"),
        (Family.ANTMINER, 80, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"),
        (Family.WHATSMINER_V3, 4433, b"\xff\xff\xff\x7f"),
    ],
)
async def test_endless_input_is_cut_off(
    site: Site, pick: Callable, family: Family, port: int, begin: bytes
) -> None:
    reader, writer = await asyncio.open_connection(pick(site, family).address, port)
    writer.write(begin)
    with suppress(ConnectionError):
        for _ in range(1_000):
            writer.write(b"x" * 65_536)
            async with asyncio.timeout(1):
                await writer.drain()
    with suppress(ConnectionError):
        async with asyncio.timeout(1):
            await reader.read()
    assert writer.transport.is_closing() or reader.at_eof()
    writer.close()


async def test_watts_are_where_the_firmware_shows_them(site: Site, pick: Callable, clients: Any) -> None:
    async def places(machine: SimulatedMachine) -> dict[str, Any]:
        classic = (await clients.rpc(machine.address, "stats"))["STATS"][1]
        new = (await clients.rpc(machine.address, "stats", new_api=True))["STATS"][0]
        assert [chain["index"] for chain in new["chain"]] == list(range(machine.exemplar.boards))
        return {"chain_power": classic.get("chain_power"), "power": new.get("power")}

    chain = pick(site, where=shows(WattsShown.CHAIN_POWER))
    found = await places(chain)
    assert found["power"] is None
    watts, unit = found["chain_power"].split()
    assert unit == "W"
    assert float(watts) == pytest.approx(site.truth(chain.address).power_w, rel=0.03)
    new = pick(site, where=shows(WattsShown.NEW_API))
    found = await places(new)
    assert found["chain_power"] is None
    assert found["power"] == pytest.approx(site.truth(new.address).power_w, rel=0.03)
    for machine in (
        pick(site, where=shows(WattsShown.NOWHERE)),
        pick(site, where=lambda m: m.model.startswith("Antminer S19j Pro 10")),
        pick(site, where=shows(WattsShown.PORT_6060)),
    ):
        assert await places(machine) == {"chain_power": None, "power": None}


async def test_port_6060_tells_watts_as_text(site: Site, pick: Callable) -> None:
    machine = pick(site, where=shows(WattsShown.PORT_6060))
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{machine.address}:6060/miner_power")
        assert answer.text.startswith("miner power:")
        watts = float(answer.text.partition(":")[2])
        assert watts == pytest.approx(site.truth(machine.address).power_w, rel=0.03)
        assert (await client.get(f"http://{machine.address}:6060/x")).text == "error 6060 cmd"
        silent = pick(site, Family.ANTMINER, shows(WattsShown.NOWHERE))
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://{silent.address}:6060/miner_power")


async def test_the_web_interface_wants_a_digest(site: Site, pick: Callable, browse: Callable) -> None:
    machine = pick(site, Family.ANTMINER)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{machine.address}/")
    assert answer.status_code == 401
    assert 'realm="antMiner Configuration"' in answer.headers["www-authenticate"]
    info = (await browse(machine.address).get("get_system_info")).json()
    assert (info["minertype"], info["macaddr"], info["serinum"]) == (
        machine.exemplar.reported,
        machine.mac,
        machine.serial,
    )
    assert (await browse(machine.address, "wrong").get("get_system_info")).status_code == 401
    web = browse(machine.address)
    assert (await web.get("get_network_info")).json()["macaddr"] == machine.mac
    assert (await web.get("get_blink_status")).json() == {"blink": False}
    assert (await web.post("blink", {"blink": "true"})).json()["code"] == "B000"
    assert (await web.get("get_blink_status")).json() == {"blink": True}
    assert (await web.get("summary")).json()["SUMMARY"][0]["rate_unit"] == "GH/s"
    assert len((await web.get("pools")).json()["POOLS"]) == 3
    missing = await web.client.get(f"http://{machine.address}/kaonsu/v1/brief")
    assert missing.status_code == 404
    with pytest.raises(ValueError, match="Expecting"):
        missing.json()


async def test_a_digest_for_another_machine_or_document_is_not_accepted(
    site: Site, pick: Callable, browse: Callable
) -> None:
    one = pick(site, Family.ANTMINER)
    two = pick(site, Family.ANTMINER, lambda m: m is not one)
    web = browse(one.address)
    sent = (await web.get("get_system_info")).request.headers["authorization"]
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": sent}) as client:
        same = await client.get(f"http://{one.address}/cgi-bin/get_system_info.cgi")
        document = await client.get(f"http://{one.address}/cgi-bin/get_miner_conf.cgi")
        machine = await client.get(f"http://{two.address}/cgi-bin/get_system_info.cgi")
    assert [same.status_code, document.status_code, machine.status_code] == [200, 401, 401]


async def test_sleep_and_wake_by_writing_the_configuration(
    site: Site, pick: Callable, browse: Callable
) -> None:
    machine = pick(site, Family.ANTMINER, lambda m: PowerMode.LOW in m.exemplar.modes)
    web, address = browse(machine.address), machine.address
    conf = (await web.get("get_miner_conf")).json()
    assert conf["bitmain-work-mode"] == "0"
    answer = await web.post("set_miner_conf", {**conf, "miner-mode": 1})
    assert answer.json() == {"stats": "success", "code": "M000", "msg": "OK!"}
    await until(site, address, RunState.ASLEEP)
    assert 15 <= site.truth(address).power_w <= 71
    assert (await web.get("get_miner_conf")).json()["bitmain-work-mode"] == "1"
    await web.post("set_miner_conf", {**conf, "miner-mode": 3, "freq-level": "90"})
    await until(site, address, RunState.MINING)
    truth = site.truth(address)
    assert truth.power_mode is PowerMode.LOW
    assert truth.pools == tuple(pool["url"] for pool in conf["pools"])
    conf = (await web.get("get_miner_conf")).json()
    assert (conf["bitmain-work-mode"], conf["bitmain-freq-level"]) == ("3", "90")
    logged = [c for c in truth.commands if c.writes]
    assert [(c.kind, c.outcome) for c in logged] == [("web:set_miner_conf", "done")] * 2
    assert "miner-mode=1" in logged[0].summary


async def test_asleep_lists_may_be_empty_and_fans_turn_slowly(
    site: Site, pick: Callable, clients: Any
) -> None:
    air = [m for m in site.machines if m.family is Family.ANTMINER and m.exemplar.fans]
    full = next(m for m in air if not m.firmware.empty_when_asleep)
    hollow = next(m for m in air if m.firmware.empty_when_asleep)
    for machine in (full, hollow):
        site.sleep(machine.address)
        await until(site, machine.address, RunState.ASLEEP)
    await asyncio.sleep(0.3)  # 900 simulated seconds: the fans follow the heat
    stats = (await clients.rpc(full.address, "stats"))["STATS"][1]
    assert (stats["GHS 5s"], stats["total_rateideal"]) == (0.0, full.exemplar.hashrate_ths * 1000)
    assert 930 <= stats["fan1"] <= 1_020
    assert (await clients.rpc(hollow.address, "stats"))["STATS"] == []
    assert (await clients.rpc(hollow.address, "summary"))["SUMMARY"] == []


async def test_refused_configurations_change_nothing(site: Site, pick: Callable, browse: Callable) -> None:
    machine = pick(site, Family.ANTMINER)
    web = browse(machine.address)
    assert (await web.post("set_miner_conf", [])).status_code == 400
    for body in ({"pools": "x"}, {"miner-mode": 9}, {"miner-mode": 1e999}, {"miner-mode": {}}):
        answer = await web.client.post(
            f"http://{machine.address}/cgi-bin/set_miner_conf.cgi", content=json.dumps(body)
        )
        assert (answer.status_code, answer.json()["code"]) == (200, "M001")
    truth = site.truth(machine.address)
    assert truth.run_state is RunState.MINING
    assert all(c.outcome.startswith("refused") for c in truth.commands if c.writes and "400" not in c.outcome)


async def test_wiped_pools_stop_the_hashing(site: Site, pick: Callable, browse: Callable) -> None:
    machine = pick(site, Family.ANTMINER)
    empty = [{"url": "", "user": "", "pass": ""}] * 3
    await browse(machine.address).post("set_miner_conf", {"pools": empty, "miner-mode": 0})
    await until(site, machine.address, RunState.STOPPED)
    assert site.truth(machine.address).pools == ("", "", "")


async def test_a_reboot_takes_it_off_the_network_for_a_while(
    site: Site, pick: Callable, browse: Callable, clients: Any
) -> None:
    machine = pick(site, Family.ANTMINER)
    with pytest.raises(httpx.TransportError):
        await browse(machine.address).get("reboot")
    with pytest.raises(ConnectionError):
        await clients.rpc(machine.address, "version")
    await until(site, machine.address, RunState.MINING)
    assert "VERSION" in await clients.rpc(machine.address, "version")
