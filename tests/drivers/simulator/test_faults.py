"""Each fault visibly does what it says."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from drivers.reading import Family, PowerMode, RunState
from drivers.simulator import antminer_web, whatsminer_v2
from drivers.simulator.faults import FACTS, Concern, Fault
from drivers.simulator.machine import SimulatedMachine, WriteOutcome
from drivers.simulator.models import WattsShown
from drivers.simulator.site import Site, SiteSpec

NETWORK = "127.80.6.0/24"
ANTMINER, V2, V3 = Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(
        SiteSpec(machines=40, network=NETWORK, speed=3_000), monotonic=asyncio.get_running_loop().time
    ) as running:
        yield running


@pytest.fixture
def broken(site: Site, pick: Callable) -> Callable[..., str]:
    """The address of a machine of a family with a fault."""

    def break_(family: Family, fault: Fault, **parameters: Any) -> str:
        machine = pick(site, family, lambda m: not m.faults and not m.firmware.old_btminer)
        site.set_fault(machine.address, fault, **parameters)
        return machine.address

    return break_


async def summary(clients: Any, address: str) -> bytes:
    return await clients.tcp(address, 4028, b'{"command":"summary"}', timeout_s=1.0)


async def post(address: str, body: dict[str, Any], *, timeout_s: float = 2.0) -> httpx.Response:
    auth = httpx.DigestAuth("root", "root")
    async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=timeout_s) as client:
        return await client.post(f"http://{address}/cgi-bin/set_miner_conf.cgi", json=body)


async def get(address: str, name: str, password: str = "root") -> httpx.Response:
    auth = httpx.DigestAuth("root", password)
    async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
        return await client.get(f"http://{address}/cgi-bin/{name}.cgi")


def test_every_fault_says_what_it_concerns() -> None:
    assert set(FACTS) == set(Fault)
    assert {facts.concern for facts in FACTS.values()} == set(Concern)
    assert all(facts.families for facts in FACTS.values())


def test_faults_that_do_not_fit_are_refused(still: Callable, pick: Callable) -> None:
    site, _ = still()
    address = pick(site, ANTMINER).address
    with pytest.raises(ValueError, match="does not happen to antminer"):
        site.set_fault(address, Fault.TOKEN_LIMIT)
    with pytest.raises(ValueError, match="no parameter 'minutes'"):
        site.set_fault(address, Fault.SLOW_WRITE, minutes=1)
    with pytest.raises(ValueError, match="must be a float"):
        site.set_fault(address, Fault.SLOW_WRITE, seconds="long")
    with pytest.raises(KeyError):
        site.set_fault("127.77.9.9", Fault.HANGS)
    assert site.machines[0].faults == ()


def test_a_share_of_the_machines_is_broken_at_random(still: Callable) -> None:
    site, _ = still(machines=400, fault_share=0.25)
    assert sum(bool(m.faults) for m in site.machines) == 100
    assert all(m.family in FACTS[fault].families for m in site.machines for fault in m.faults)
    assert len({fault for m in site.machines for fault in m.faults}) > 15


def test_machines_broken_at_random_show_it_when_they_are_read(still: Callable) -> None:
    site, _ = still(machines=400, fault_share=1.0)
    concerns = {FACTS[fault].concern for m in site.machines for fault in m.faults}
    assert concerns == {Concern.NETWORK, Concern.READING}


# -- network


async def test_refuses(site: Site, broken: Callable, clients: Any) -> None:
    address = broken(ANTMINER, Fault.REFUSES)
    for port in (80, 4028):
        with pytest.raises(ConnectionRefusedError):
            await clients.tcp(address, port, b"")
    site.clear_faults(address)
    assert await summary(clients, address)


@pytest.mark.parametrize("shared", [False, True], ids=["listener per machine", "listener per port"])
def test_no_answer_and_the_neighbours_do(shared: bool, clients: Any, run_isolated: Callable) -> None:
    async def work() -> None:
        async with Site(SiteSpec(machines=500, network="127.80.12.0/22", speed=1.0), shared=shared) as site:
            alive, *dead = (m.address for m in site.machines[:401])
            for address in dead:
                site.set_fault(address, Fault.NO_ANSWER)
            for address in (dead[0], dead[-1]):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.open_connection(address, 4028), 0.3)
            assert await clients.tcp(alive, 4028, b'{"command":"get_version"}')
            site.clear_faults()
            assert await clients.tcp(dead[0], 4028, b'{"command":"get_version"}')

    run_isolated(work)


async def test_no_answer_silences_open_connections_too(site: Site) -> None:
    machine = site.machines[0]
    reader, writer = await asyncio.open_connection(machine.address, 4028)
    site.set_fault(machine.address, Fault.NO_ANSWER)
    writer.write(b'{"command":"version"}')
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(), 0.2)
    writer.close()


async def test_hangs(broken: Callable, clients: Any) -> None:
    address = broken(V2, Fault.HANGS)
    with pytest.raises(TimeoutError):
        await clients.tcp(address, 4028, b'{"command":"summary"}', timeout_s=0.2)


async def test_resets(broken: Callable, clients: Any) -> None:
    with pytest.raises(ConnectionResetError):
        await summary(clients, broken(V2, Fault.RESETS))


async def test_half_closed_never_ends(broken: Callable) -> None:
    address = broken(V2, Fault.HALF_CLOSED, share=0.5)
    reader, writer = await asyncio.open_connection(address, 4028)
    writer.write(b'{"command":"summary"}')
    begun = await asyncio.wait_for(reader.read(100_000), 1)
    assert begun.startswith(b'{"STATUS"')
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(), 0.2)
    writer.close()


async def test_an_answer_may_come_byte_by_byte(broken: Callable) -> None:
    address = broken(V2, Fault.HALF_CLOSED, share=0.0, drip_s=0.01)
    reader, writer = await asyncio.open_connection(address, 4028)
    writer.write(b'{"command":"summary"}')
    async with asyncio.timeout(60):
        drops = [await reader.read(100_000) for _ in range(5)]
        while len(b"".join(drops)) < 9:
            drops.append(await reader.read(100_000))
    assert b"".join(drops).startswith(b'{"STATUS"')
    assert all(len(drop) < 9 for drop in drops)
    writer.close()


async def test_an_answer_may_be_nested_without_end(broken: Callable) -> None:
    address = broken(V2, Fault.GARBAGE, depth=20_000)
    reader, writer = await asyncio.open_connection(address, 4028)
    writer.write(b'{"command":"summary"}')
    answer = await asyncio.wait_for(reader.read(), 60)
    assert answer.count(b"[") == answer.count(b"]") == 20_000
    writer.close()


async def test_slow_answer(broken: Callable, clients: Any) -> None:
    address = broken(V3, Fault.SLOW_ANSWER, seconds=0.2)
    begun = time.monotonic()
    assert (await clients.v3(address, "get.device.info"))["code"] == 0
    assert time.monotonic() - begun >= 0.2


# -- spoilt answers


@pytest.mark.parametrize("family", [ANTMINER, V2, V3])
@pytest.mark.parametrize(
    "fault", [Fault.CUT_JSON, Fault.NUL_BYTES, Fault.MISSING_COMMAS, Fault.HTML, Fault.GARBAGE]
)
async def test_spoilt_answers_do_not_parse(
    family: Family, fault: Fault, broken: Callable, clients: Any
) -> None:
    address = broken(family, fault)
    if family is V3:
        with pytest.raises(ValueError):
            await clients.v3(address, "get.miner.status", "edevs")
        return
    raw = await clients.tcp(address, 4028, b'{"command":"devs"}')
    with pytest.raises(ValueError):
        json.loads(raw.rstrip(b"\x00"))
    marks = {Fault.HTML: b"<html>", Fault.NUL_BYTES: b",\x00", Fault.MISSING_COMMAS: b"STATUS"}
    assert marks.get(fault, b"") in raw
    if fault is Fault.NUL_BYTES:
        assert json.loads(raw.replace(b"\x00", b""))
    if family is ANTMINER:
        with pytest.raises(ValueError):
            (await get(address, "stats")).json()


async def test_oversized(broken: Callable, clients: Any) -> None:
    raw = await summary(clients, broken(V2, Fault.OVERSIZED, size=3_000_000))
    assert 2_990_000 < len(raw) < 3_010_000
    assert json.loads(raw)["SUMMARY"]


async def test_empty_stats(site: Site, broken: Callable, clients: Any) -> None:
    antminer, v2 = broken(ANTMINER, Fault.EMPTY_STATS), broken(V2, Fault.EMPTY_STATS)
    assert (await clients.rpc(antminer, "stats"))["STATS"] == []
    assert (await clients.rpc(antminer, "stats", new_api=True))["STATS"] == []
    assert (await clients.rpc(antminer, "summary"))["SUMMARY"] == []
    assert (await clients.rpc(v2, "summary"))["SUMMARY"] == []
    assert (await clients.rpc(v2, "devs"))["DEVS"] == []
    v3 = broken(V3, Fault.EMPTY_STATS)
    assert (await clients.v3(v3, "get.miner.status", "summary"))["msg"] == {"summary": {}}
    assert (await clients.v3(v3, "get.miner.status", "edevs"))["msg"] == {"edevs": []}


# -- wrong numbers


async def test_hashrate_a_thousand_times_too_high(site: Site, broken: Callable, clients: Any) -> None:
    address = broken(ANTMINER, Fault.HASHRATE_X1000)
    said = (await clients.rpc(address, "summary"))["SUMMARY"][0]["GHS 5s"]
    assert said / 1e6 == pytest.approx(site.truth(address).hashrate_ths, rel=0.05)


async def test_hot_chips(broken: Callable, clients: Any) -> None:
    devs = (await clients.rpc(broken(V2, Fault.HOT_CHIPS), "devs"))["DEVS"]
    assert max(board["Chip Temp Max"] for board in devs) == 132


async def test_watts_nan_zero_and_absent(site: Site, broken: Callable, clients: Any, pick: Callable) -> None:
    nan, zero, absent = (broken(V2, f) for f in (Fault.WATTS_NAN, Fault.WATTS_ZERO, Fault.WATTS_ABSENT))
    assert math.isnan((await clients.rpc(nan, "summary"))["SUMMARY"][0]["Power"])
    assert (await clients.rpc(zero, "summary"))["SUMMARY"][0]["Power"] == 0
    assert "Power" not in (await clients.rpc(absent, "summary"))["SUMMARY"][0]
    v3 = broken(V3, Fault.WATTS_ABSENT)
    assert "power-realtime" not in (await clients.v3(v3, "get.miner.status", "summary"))["msg"]["summary"]
    for shown in (WattsShown.CHAIN_POWER, WattsShown.NEW_API):
        machine = pick(site, where=lambda m, shown=shown: m.firmware.watts_shown is shown)
        for fault, chain, new in (
            (Fault.WATTS_NAN, "NaN W", "nan"),
            (Fault.WATTS_ZERO, "0 W", "0"),
            (Fault.WATTS_ABSENT, "None", "None"),
        ):
            site.clear_faults(machine.address)
            site.set_fault(machine.address, fault)
            if shown is WattsShown.CHAIN_POWER:
                assert (
                    str((await clients.rpc(machine.address, "stats"))["STATS"][1].get("chain_power")) == chain
                )
            else:
                stats = (await clients.rpc(machine.address, "stats", new_api=True))["STATS"][0]
                assert str(stats.get("power")) == new
    machine = pick(site, where=lambda m: m.firmware.watts_shown is WattsShown.PORT_6060)
    for fault, text in (
        (Fault.WATTS_NAN, "miner power:NaN"),
        (Fault.WATTS_ZERO, "miner power:0"),
        (Fault.WATTS_ABSENT, "error 6060 cmd"),
    ):
        site.clear_faults(machine.address)
        site.set_fault(machine.address, fault)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://{machine.address}:6060/miner_power")).text == text


async def test_one_board_of_three_dead(site: Site, broken: Callable, clients: Any, pick: Callable) -> None:
    machine = pick(site, ANTMINER, lambda m: m.exemplar.boards == 3)
    full = site.truth(machine.address)
    site.set_fault(machine.address, Fault.BOARD_DEAD)
    await asyncio.sleep(0.02)
    truth = site.truth(machine.address)
    assert truth.hashrate_ths == pytest.approx(full.hashrate_ths * 2 / 3)
    assert truth.power_w == pytest.approx(full.power_w * 2 / 3, rel=0.01)
    stats = (await clients.rpc(machine.address, "stats"))["STATS"][1]
    assert (stats["chain_acn2"] > 0, stats["chain_acn3"], stats["chain_rate3"]) == (True, 0, "")
    site.clear_faults(machine.address)
    await asyncio.sleep(0.02)
    assert site.truth(machine.address).hashrate_ths == full.hashrate_ths
    errors = (await clients.rpc(broken(V2, Fault.BOARD_DEAD), "get_error_code"))["Msg"]["error_code"]
    assert len(errors) == 1


async def test_pool_dead_but_hashing(site: Site, broken: Callable, clients: Any) -> None:
    address = broken(V2, Fault.POOL_DEAD)
    pools = (await clients.rpc(address, "pools"))["POOLS"]
    assert {(p["Status"], p["Stratum Active"]) for p in pools} == {("Dead", False)}
    assert site.truth(address).run_state is RunState.MINING


async def test_duplicate_mac(site: Site, broken: Callable, clients: Any) -> None:
    twin = site.machines[-1].mac
    for family in (ANTMINER, V2, V3):
        address = broken(family, Fault.DUPLICATE_MAC, mac=twin)
        assert site.truth(address).mac != twin
        if family is ANTMINER:
            assert (await get(address, "get_system_info")).json()["macaddr"] == twin
        else:
            assert (await clients.rpc(address, "get_miner_info"))["Msg"]["mac"] == twin


# -- writing


async def test_wrong_password_is_401_once_then_a_lock_out(site: Site, broken: Callable, clients: Any) -> None:
    address = broken(ANTMINER, Fault.WRONG_PASSWORD, password="secret", seconds=300)
    assert (await get(address, "get_miner_conf")).status_code == 401
    for password in ("root", "secret"):
        with pytest.raises(httpx.TransportError):
            await get(address, "get_miner_conf", password)
    assert (await clients.rpc(address, "version"))["VERSION"], "reading over 4028 needs no password"
    next(machine for machine in site.machines if machine.address == address).locked_until_s -= 300
    assert (await get(address, "get_miner_conf", "secret")).status_code == 200


async def test_the_configuration_read_fails_once(broken: Callable) -> None:
    address = broken(ANTMINER, Fault.CONFIG_READ_FAILS)
    assert [(await get(address, "get_miner_conf")).status_code for _ in range(3)] == [500, 200, 200]
    address = broken(ANTMINER, Fault.CONFIG_READ_FAILS, times=2)
    assert [(await get(address, "get_miner_conf")).status_code for _ in range(3)] == [500, 500, 200]


async def test_slow_write_applies_at_once(site: Site, broken: Callable) -> None:
    address = broken(ANTMINER, Fault.SLOW_WRITE, seconds=0.3)
    begun = time.monotonic()
    task = asyncio.create_task(post(address, {"miner-mode": 1}))
    await asyncio.sleep(0.15)
    assert site.truth(address).run_state is RunState.ASLEEP
    assert (await task).json()["code"] == "M000"
    assert time.monotonic() - begun >= 0.3


async def test_applies_without_answering(site: Site, broken: Callable) -> None:
    address = broken(ANTMINER, Fault.APPLIES_SILENTLY)
    with pytest.raises(httpx.ReadTimeout):
        await post(address, {"miner-mode": 1}, timeout_s=0.2)
    assert site.truth(address).run_state is RunState.ASLEEP


async def test_answers_ok_and_does_nothing(site: Site, broken: Callable) -> None:
    address = broken(ANTMINER, Fault.OK_BUT_NOTHING)
    assert (await post(address, {"miner-mode": 1})).json()["code"] == "M000"
    truth = site.truth(address)
    assert truth.run_state is RunState.MINING
    assert [c.outcome for c in truth.commands if c.writes] == ["ignored"]


async def test_refuses_writes_with_http_200(site: Site, broken: Callable) -> None:
    answer = await post(broken(ANTMINER, Fault.REFUSES_WRITES), {"miner-mode": 1})
    assert (answer.status_code, answer.json()["code"], answer.json()["msg"]) == (200, "M001", "Invalid pool!")


@pytest.mark.parametrize(
    ("fault", "body", "sleeps"),
    [
        (Fault.WORK_MODE_KEY, {"miner-mode": 1}, False),
        (Fault.WORK_MODE_KEY, {"bitmain-work-mode": "1"}, True),
        (Fault.BOTH_MODE_KEYS, {"miner-mode": 1}, False),
        (Fault.BOTH_MODE_KEYS, {"bitmain-work-mode": "1"}, False),
        (Fault.BOTH_MODE_KEYS, {"miner-mode": 1, "bitmain-work-mode": "1"}, True),
        (None, {"bitmain-work-mode": "1"}, False),
        (None, {"miner-mode": 1}, True),
    ],
)
async def test_which_mode_key_counts(
    site: Site, pick: Callable, fault: Fault | None, body: dict[str, Any], sleeps: bool
) -> None:
    address = pick(site, ANTMINER).address
    if fault:
        site.set_fault(address, fault)
    assert (await post(address, body)).json()["code"] == "M000"
    async with asyncio.timeout(60):
        while site.truth(address).run_state is RunState.RAMPING:
            await asyncio.sleep(0.01)
    assert site.truth(address).run_state is (RunState.ASLEEP if sleeps else RunState.MINING)


async def test_wants_strings(broken: Callable) -> None:
    address = broken(ANTMINER, Fault.WANTS_STRINGS)
    assert (await post(address, {"miner-mode": 1})).status_code == 400
    assert (await post(address, {"miner-mode": "1"})).json()["code"] == "M000"


def web(machine: SimulatedMachine, body: dict[str, Any]) -> dict[str, Any]:
    """Post a configuration past the network and the password."""
    request = antminer_web.WebRequest(
        method="POST", path="", target="", authorization="", body=json.dumps(body).encode()
    )
    return json.loads(antminer_web._WRITES["set_miner_conf"](machine, request).body or b"{}")


def test_a_new_mode_waits_for_a_reboot(still: Callable, pick: Callable) -> None:
    site, hand = still()
    machine = pick(site, ANTMINER)
    site.set_fault(machine.address, Fault.NEEDS_REBOOT)
    assert web(machine, {"miner-mode": 1})["code"] == "M000"
    assert antminer_web._miner_conf(machine)["bitmain-work-mode"] == "1"
    hand.now_s += 1_200
    assert site.truth(machine.address).run_state is RunState.MINING
    machine.reboot(site.clock.seconds())
    hand.now_s += 120
    assert site.truth(machine.address).run_state is RunState.ASLEEP


@pytest.mark.parametrize("applied", [False, True])
def test_a_reboot_in_the_middle_of_a_write(still: Callable, pick: Callable, applied: bool) -> None:
    site, hand = still()
    machine = pick(site, ANTMINER)
    site.set_fault(machine.address, Fault.REBOOTS_MIDWAY, applied=applied)
    assert machine.change("x", "", machine.sleep) is WriteOutcome.CRASHED
    assert machine.offline
    assert machine.faults == ()
    hand.now_s += 1_200
    assert not machine.offline
    assert site.truth(machine.address).run_state is (RunState.ASLEEP if applied else RunState.MINING)


async def test_a_machine_that_reboots_does_not_answer(site: Site, broken: Callable) -> None:
    with pytest.raises(httpx.TransportError):
        await post(broken(ANTMINER, Fault.REBOOTS_MIDWAY), {"miner-mode": 1})


def test_wakes_by_itself(still: Callable, pick: Callable) -> None:
    site, hand = still()
    machine = pick(site, V2)
    site.set_fault(machine.address, Fault.WAKES_BY_ITSELF, seconds=600)
    assert machine.change("x", "", machine.sleep) is WriteOutcome.DONE
    hand.now_s += 590
    assert site.truth(machine.address).run_state is RunState.ASLEEP
    hand.now_s += 20
    assert site.truth(machine.address).run_state is RunState.RAMPING
    hand.now_s += 900
    assert site.truth(machine.address).run_state is RunState.MINING


def test_two_controllers_on_one_machine(still: Callable, pick: Callable) -> None:
    site, hand = still()
    machine = pick(site, V3)
    site.set_fault(machine.address, Fault.RIVAL_CONTROLLER, seconds=300)
    for undone in (RunState.MINING, RunState.ASLEEP):
        machine.change("x", "", machine.sleep if undone is RunState.MINING else machine.wake)
        hand.now_s += 1_500
        assert site.truth(machine.address).run_state is undone
        site.clear_faults()
        machine.sleep(site.clock.seconds())
        hand.now_s += 1_500
        assert site.truth(machine.address).run_state is RunState.ASLEEP
        site.set_fault(machine.address, Fault.RIVAL_CONTROLLER, seconds=300)


@pytest.mark.parametrize(("fault", "code"), [(Fault.TOKEN_REJECTED, 135), (Fault.WRITES_CLOSED, 45)])
def test_whatsminer_v2_refuses_tokens_and_writes(
    still: Callable, pick: Callable, fault: Fault, code: int
) -> None:
    site, _ = still()
    machine = pick(site, V2)
    site.set_fault(machine.address, fault)
    whatsminer_v2.keys.issue(machine)
    order = {"cmd": "power_off", "token": next(iter(machine.tokens))}
    sealed = whatsminer_v2.keys.seal(machine, json.dumps(order).encode())
    answer = json.loads(whatsminer_v2.answer(machine, {"enc": 1, "data": sealed}).body)
    assert answer["Code"] == code
    site.clear_faults()
    assert "enc" in json.loads(whatsminer_v2.answer(machine, {"enc": 1, "data": sealed}).body)


async def test_no_token_is_free(broken: Callable, clients: Any) -> None:
    assert (await clients.rpc(broken(V2, Fault.TOKEN_LIMIT), "get_token"))["Code"] == 136


async def test_clearing_one_machine_leaves_the_others(site: Site, broken: Callable) -> None:
    one, two = broken(V2, Fault.HOT_CHIPS), broken(V3, Fault.HOT_CHIPS)
    site.clear_faults(one)
    assert [m.address for m in site.machines if m.faults] == [two]
    site.clear_faults()
    assert not any(m.faults for m in site.machines)
    assert PowerMode.NORMAL is site.truth(one).power_mode
