"""Everything else that pyasic speaks, read without believing pyasic's defaults."""

import json
import warnings
from dataclasses import replace

import pytest

from drivers.connect import connect
from drivers.driver import (
    ConnectionLost,
    Credentials,
    Incomplete,
    Malformed,
    NoAnswer,
    Oversized,
    Refused,
    Unsupported,
    WrongMachine,
)
from drivers.reading import Address, Family, Identity, PowerSource, RunState

LUX = "generic/luxos-s19j-pro"


@pytest.fixture
async def lux(servers, identified, quick, network):
    """The recorded LuxOS machine and its driver."""
    machine = await servers.machine(LUX, f"{network}.1")
    identity = await identified(machine.address)
    return machine, connect(identity, machine.address, options=quick)


FAILURES = {
    "hangs": ("hang", None, NoAnswer),
    "resets": ("reset", None, ConnectionLost),
    "closes": ("says", b"", ConnectionLost),
    "html": ("says", b"<html></html>", Malformed),
    "garbage": ("says", bytes(range(256)), Malformed),
    "cut": ("says", b'{"STATUS":[{"STATUS":"S"', Malformed),
    "10 MB": ("says", b'{"a":"' + b"x" * 10_000_000, Oversized),
    "nothing in it": ("says", b"{}", Incomplete),
    "refuses the command": ("says", b'{"STATUS":[{"STATUS":"E","Msg":"no"}]}', Incomplete),
}


@pytest.mark.parametrize("how", FAILURES)
async def test_no_failure_becomes_a_reading(lux, peers, leftovers, how) -> None:
    machine, driver = lux
    name, said, error = FAILURES[how]
    machine.rpc_behave = getattr(peers, name) if said is None else getattr(peers, name)(said)
    with leftovers(within_s=2.5), pytest.raises(error):
        await driver.read()


async def test_refused(quick, leftovers, network) -> None:
    identity = Identity(
        family=Family.GENERIC,
        make="Lux Os",
        model="Antminer S19j Pro",
        firmware=None,
        mac="02:13:A7:00:7C:01",
        serial=None,
        driver_class="LUXMinerS19jPro",
    )
    driver = connect(identity, Address(host=f"{network}.250"), options=quick)
    with leftovers(within_s=0.5), pytest.raises(Refused):
        await driver.read()


@pytest.mark.parametrize(
    ("curtailed", "state"), [("Sleep", RunState.ASLEEP), ("None", RunState.STOPPED), (None, RunState.UNKNOWN)]
)
async def test_a_stopped_machine_is_not_mining_by_default(lux, curtailed, state) -> None:
    """pyasic's `is_mining` is True where a backend does not answer it, as LuxOS's does not: `config` says why
    it does not hash."""
    machine, driver = lux
    machine.said["config"]["CONFIG"][0]["CurtailMode"] = curtailed
    machine.said["summary"]["SUMMARY"][0]["GHS 5s"] = 0.0
    for chain in (1, 2, 3):
        machine.said["stats"]["STATS"][1][f"chain_rate{chain}"] = "0.00"
    reading = await driver.read()
    assert (reading.run_state, reading.hashrate_ths) == (state, 0.0)


async def test_without_watts_the_nameplate(lux) -> None:
    machine, driver = lux
    del machine.said["power"]
    assert (await driver.read()).power_source is PowerSource.NAMEPLATE


async def test_a_board_that_pyasic_stumbles_over_costs_only_the_boards(lux) -> None:
    machine, driver = lux
    machine.said["stats"]["STATS"][1]["chain_rate2"] = ""
    reading = await driver.read()
    assert reading.hashrate_ths == pytest.approx(99.12031)
    assert reading.power_w == 3041.0


async def test_a_pool_address_that_pyasic_does_not_know_costs_only_the_pools(lux) -> None:
    machine, driver = lux
    machine.said["pools"]["POOLS"][0]["URL"] = "ssl://pool.example:443"
    reading = await driver.read()
    assert reading.hashrate_ths == pytest.approx(99.12031)
    assert reading.pools == ()
    assert any(error.startswith("pools unknown") for error in reading.errors)


async def test_another_mac_is_another_machine(lux) -> None:
    machine, driver = lux
    machine.said["config"]["CONFIG"][0]["MACAddr"] = "02:13:a7:00:7c:ff"
    with pytest.raises(WrongMachine, match="02:13:A7:00:7C:FF"):
        await driver.read()


async def test_unit_bug(lux) -> None:
    machine, driver = lux
    machine.said["summary"]["SUMMARY"][0]["GHS 5s"] *= 1000
    assert "unit bug" in ((await driver.read()).implausible or "")


@pytest.mark.parametrize(("name", "why"), [("NoSuchMiner", "no class"), ("BMMinerL7", "not SHA256")])
def test_what_cannot_be_read_is_said_before_anything_is_sent(quick, name, why) -> None:
    identity = Identity(
        family=Family.GENERIC, make="x", model="x", firmware=None, mac=None, serial=None, driver_class=name
    )
    with pytest.raises(Unsupported, match=why):
        connect(identity, Address(host="127.0.0.1"), options=quick)
    with pytest.raises(Unsupported, match="not an IPv4 address"):
        connect(identity, Address(host="rig.example"), options=quick)


# -- a machine behind HTTP ---------------------------------------------------------------------------------

BITAXE = {
    "power": 17.1,
    "voltage": 5.1,
    "temp": 58.0,
    "hashRate": 1105.5,
    "expectedHashrate": 1150.0,
    "bestDiff": "1.2G",
    "stratumURL": "pool.example",
    "stratumPort": 3333,
    "stratumUser": "site7.axe",
    "version": "v2.4.1",
    "ASICModel": "BM1370",
    "macAddr": "02:ba:a7:00:00:11",
    "uptimeSeconds": 40_000,
    "asicCount": 1,
    "fanrpm": 4900,
    "boardVersion": "601",
}


@pytest.fixture
async def bitaxe(servers, peers, identified, quick, network):
    """A Bitaxe in the shape of its `/api/system/info`; `said[0]` is its answer."""
    said = [json.dumps(BITAXE).encode()]

    def behave(received: bytes, transport) -> None:
        if received.endswith(b"\r\n\r\n"):
            page = b"<html><title>AxeOS</title></html>" if received.startswith(b"GET / ") else said[0]
            peers.http(transport, 200, page)

    await servers.listen(f"{network}.1", 80, behave)
    address = Address(host=f"{network}.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        identity = await identified(address)
    return said, connect(identity, address, options=quick)


async def test_a_bitaxe(bitaxe, leftovers) -> None:
    _, driver = bitaxe
    assert driver.identity.mac == "02:BA:A7:00:00:11"
    with leftovers(within_s=1.0):
        reading = await driver.read()
    assert reading.hashrate_ths == pytest.approx(1.1055)
    assert (reading.power_w, reading.power_source) == (17, PowerSource.REPORTED)
    assert reading.implausible is None
    assert not driver.capabilities.can_sleep


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"<html></html>", Incomplete),
        (b'{"a":"' + b"x" * 10_000_000 + b'"}', Oversized),
        (b'{"power"', Incomplete),
    ],
)
async def test_what_a_broken_bitaxe_says_is_no_reading(bitaxe, leftovers, said, error) -> None:
    answer, driver = bitaxe
    answer[0] = said
    with leftovers(within_s=1.5), pytest.raises((error, Malformed)):
        await driver.read()


async def test_a_login_is_handed_to_pyasic(quick) -> None:
    identity = Identity(
        family=Family.GENERIC,
        make="Epic",
        model="x",
        firmware=None,
        mac=None,
        serial=None,
        driver_class="ePICS19",
    )
    options = replace(quick, credentials={Family.GENERIC: Credentials(username="me", password="s3cret")})
    driver = connect(identity, Address(host="127.0.0.1"), options=options)
    assert driver._miner.web.pwd == "s3cret"  # type: ignore[attr-defined]
    assert "s3cret" not in repr(options)
