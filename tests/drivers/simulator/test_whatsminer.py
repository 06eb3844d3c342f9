"""Whatsminers V2 and V3, by raw sockets; writes with encryption of the tests' own."""

import asyncio
import base64
import hashlib
import json
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from drivers.reading import Family, PowerMode, RunState
from drivers.simulator import whatsminer_keys, whatsminer_v2
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.site import Site, SiteSpec
from drivers.simulator.whatsminer_keys import md5_crypt

NETWORK = "127.80.3.0/24"
V2, V3 = Family.WHATSMINER_V2, Family.WHATSMINER_V3


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(
        SiteSpec(machines=60, network=NETWORK, speed=3_000), monotonic=asyncio.get_running_loop().time
    ) as running:
        yield running


async def until(site: Site, address: str, state: RunState) -> None:
    async with asyncio.timeout(60):
        while site.truth(address).run_state is not state:
            await asyncio.sleep(0.01)


class Writer:
    """A client that knows the V2 token scheme."""

    def __init__(self, clients: Any, address: str, password: str = "admin") -> None:
        self.clients, self.address, self.password = clients, address, password
        self.key = self.sign = ""

    async def log_in(self) -> None:
        token = (await self.clients.rpc(self.address, "get_token"))["Msg"]
        self.key = md5_crypt.using(salt=token["salt"]).hash(self.password).split("$")[3]
        self.sign = md5_crypt.using(salt=token["newsalt"]).hash(self.key + token["time"]).split("$")[3]

    def _cipher(self) -> Cipher:
        return Cipher(algorithms.AES(hashlib.sha256(self.key.encode()).digest()), modes.ECB())

    async def write(self, cmd: str, **parameters: Any) -> dict[str, Any]:
        plain = json.dumps({"cmd": cmd, "token": self.sign, **parameters}).encode()
        plain += b"\x00" * (-len(plain) % 16)
        data = base64.b64encode(self._cipher().encryptor().update(plain)).decode()
        raw = await self.clients.tcp(self.address, 4028, json.dumps({"enc": 1, "data": data}).encode())
        answer = json.loads(raw)
        if "enc" in answer:
            opened = self._cipher().decryptor().update(base64.b64decode(answer["enc"]))
            answer = json.loads(opened.rstrip(b"\x00"))
        return answer


@pytest.fixture
async def v2(site: Site, pick: Callable, clients: Any) -> tuple[SimulatedMachine, Writer]:
    machine = pick(site, V2, lambda m: not m.firmware.old_btminer)
    writer = Writer(clients, machine.address)
    await writer.log_in()
    return machine, writer


async def test_v2_reads_have_the_captured_shapes(site: Site, pick: Callable, clients: Any) -> None:
    machine = pick(site, V2)
    address, truth = machine.address, site.truth(machine.address)
    summary = (await clients.rpc(address, "summary"))["SUMMARY"][0]
    assert summary["MHS 1m"] / 1e6 == pytest.approx(truth.hashrate_ths, rel=0.03)
    assert summary["Power"] == pytest.approx(truth.power_w, rel=0.02)
    assert (summary["Power Mode"], summary["MAC"]) == ("Normal", machine.mac)
    devs = (await clients.rpc(address, "devs"))["DEVS"]
    assert [d["Effective Chips"] for d in devs] == [
        machine.exemplar.chips_per_board
    ] * machine.exemplar.boards
    assert (await clients.rpc(address, "devdetails"))["DEVDETAILS"][0]["Model"] == machine.exemplar.reported
    info = (await clients.rpc(address, "get_miner_info"))["Msg"]
    assert (info["mac"], info["minersn"]) == (machine.mac, machine.serial)
    version = await clients.rpc(address, "get_version")
    assert (version["Code"], version["Msg"]["fw_ver"]) == (131, machine.firmware.version)
    assert (await clients.rpc(address, "get_psu"))["Msg"]["model"] == "P221B"
    assert (await clients.rpc(address, "get_error_code"))["Msg"] == {"error_code": []}
    assert len((await clients.rpc(address, "pools"))["POOLS"]) == 3
    assert (await clients.rpc(address, "edevs"))["DEVS"]


async def test_v2_reads_join_but_not_all(site: Site, pick: Callable, clients: Any) -> None:
    address = pick(site, V2).address
    joined = await clients.rpc(address, "summary+devs+pools")
    assert set(joined) == {"summary", "devs", "pools", "id"}
    assert joined["summary"][0]["SUMMARY"][0]["Power"] > 1_000
    for command in ("summary+status", "get_psu+get_version", "x", "+".join(["summary"] * 50)):
        assert (await clients.rpc(address, command))["Code"] == 14
    assert json.loads(await clients.tcp(address, 4028, b"[]"))["Code"] == 23


async def test_v2_writes_have_their_effects(site: Site, v2: tuple[SimulatedMachine, Writer]) -> None:
    machine, writer = v2
    address = machine.address
    assert (await writer.write("power_off", respbefore="true"))["Code"] == 131
    await until(site, address, RunState.ASLEEP)
    status = await writer.clients.rpc(address, "status")
    assert status["Msg"]["mineroff"] == "true"
    await asyncio.sleep(0.05)  # 150 simulated seconds: the one-minute mean is over
    summary = (await writer.clients.rpc(address, "summary"))["SUMMARY"][0]
    assert summary["MHS 1m"] == 0
    assert 10 < summary["Power"] < 75
    assert (await writer.write("power_on"))["Code"] == 131
    await until(site, address, RunState.MINING)
    for command, mode in (
        ("set_low_power", PowerMode.LOW),
        ("set_high_power", PowerMode.HIGH),
        ("set_normal_power", PowerMode.NORMAL),
    ):
        assert (await writer.write(command))["Msg"] == "API command OK"
        await until(site, address, RunState.MINING)
        assert site.truth(address).power_mode is mode
    full_w = site.truth(address).power_w
    await writer.write("set_power_pct", percent="60")
    await until(site, address, RunState.MINING)
    assert site.truth(address).power_w == pytest.approx(0.6 * full_w, rel=0.02)
    await writer.write("adjust_power_limit", power_limit=str(round(machine.exemplar.power_w)))
    await until(site, address, RunState.MINING)
    assert 0.9 * full_w < site.truth(address).power_w < full_w
    pools = {f"{key}{n}": f"{key}{n}" for key in ("pool", "worker", "passwd") for n in (1, 2, 3)}
    await writer.write("update_pools", **pools)
    truth = site.truth(address)
    assert truth.pools == ("pool1", "pool2", "pool3")
    assert "passwd" not in str(truth.commands)
    kinds = [c.kind for c in truth.commands if c.writes]
    assert kinds[:2] == ["v2:power_off", "v2:power_on"]


async def test_v2_refuses_what_is_wrong(
    site: Site, v2: tuple[SimulatedMachine, Writer], clients: Any
) -> None:
    machine, writer = v2
    assert (await writer.write("no_such_thing"))["Code"] == 134
    for parameters in ({"percent": "150"}, {"percent": "x"}, {}, {"percent": None}):
        assert (await writer.write("set_power_pct", **parameters))["Code"] == 132
    writer.sign = "forged"
    assert (await writer.write("power_off"))["Code"] == 135
    stranger = Writer(clients, machine.address, password="letmein")
    await stranger.log_in()
    assert await stranger.write("power_off") | {"When": 0} == {
        "STATUS": "E",
        "When": 0,
        "Code": 23,
        "Msg": "enc json load err",
        "Description": "btminer",
    }
    raw = await clients.tcp(machine.address, 4028, b'{"enc":1,"data":"%%%"}')
    assert json.loads(raw)["Code"] == 137
    assert site.truth(machine.address).run_state is RunState.MINING


async def test_v2_tokens_run_out(still: Callable, pick: Callable) -> None:
    site, hand = still()
    machine = pick(site, V2)
    tokens = [whatsminer_keys.issue(machine) for _ in range(whatsminer_keys.TOKEN_LIMIT)]
    assert all(tokens)
    sign = next(iter(machine.tokens))
    assert whatsminer_keys.valid(machine, sign)
    refused = json.loads(whatsminer_v2.answer(machine, {"command": "get_token"}).body)
    assert (refused["Code"], refused["Msg"]) == (136, "over max connect")
    hand.now_s += 30 * 60
    assert not whatsminer_keys.valid(machine, sign)
    assert whatsminer_keys.issue(machine) is not None


async def test_v2_old_firmware_answers_little_while_it_is_off(
    site: Site, pick: Callable, clients: Any
) -> None:
    machine = pick(site, V2, lambda m: m.firmware.old_btminer)
    assert (await clients.rpc(machine.address, "status"))["Msg"]["btmineroff"] == "false"
    site.sleep(machine.address)
    await until(site, machine.address, RunState.ASLEEP)
    assert (await clients.rpc(machine.address, "status"))["Msg"]["btmineroff"] == "true"
    for command in ("devs", "summary+devs", "devdetails"):
        raw = await clients.tcp(machine.address, 4028, json.dumps({"command": command}).encode())
        assert raw == b"Socket connect failed: Connection refused\n"
    assert (await clients.rpc(machine.address, "summary"))["SUMMARY"][0]["Power"] < 75


async def test_v2_a_stopped_machine_starts_after_a_power_cycle_unless_told_not_to(
    site: Site, v2: tuple[SimulatedMachine, Writer]
) -> None:
    machine, writer = v2
    site.sleep(machine.address)
    assert (await writer.write("reboot"))["Code"] == 131
    with pytest.raises(ConnectionError):
        await writer.write("power_on")
    await until(site, machine.address, RunState.MINING)
    await writer.write("disable_btminer_init")
    await writer.write("power_off")
    await writer.write("reboot")
    await until(site, machine.address, RunState.ASLEEP)


# -- V3


def signed(machine_salt: str, command: str, password: str = "super") -> dict[str, Any]:
    ts = int(time.time())
    text = f"{command}{password}{machine_salt}{ts}"
    token = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()[:8]
    return {"ts": ts, "account": "super", "token": token}


async def test_v3_reads_have_the_captured_shapes(site: Site, pick: Callable, clients: Any) -> None:
    machine = pick(site, V3)
    address, truth = machine.address, site.truth(machine.address)
    info = (await clients.v3(address, "get.device.info"))["msg"]
    assert info["network"]["mac"] == machine.mac
    assert info["miner"]["miner-sn"] == machine.serial
    assert info["miner"]["type"] == machine.exemplar.reported
    assert (await clients.v3(address, "get.device.info", "salt"))["msg"] == {"salt": info["salt"]}
    both = (await clients.v3(address, "get.miner.status", "summary+pools"))["msg"]
    assert both["summary"]["hash-realtime"] == pytest.approx(truth.hashrate_ths, rel=0.05)
    assert both["summary"]["power-realtime"] == pytest.approx(truth.power_w, rel=0.02)
    assert [p["status"] for p in both["pools"]] == ["alive"] * 3
    edevs = (await clients.v3(address, "get.miner.status", "edevs"))["msg"]["edevs"]
    assert len(edevs) == machine.exemplar.boards
    assert (await clients.v3(address, "get.miner.setting"))["msg"]["power-mode"] == "normal"
    assert (await clients.v3(address, "get.nonsense"))["code"] == -2


async def test_v3_writes_need_a_token_and_have_their_effects(
    site: Site, pick: Callable, clients: Any
) -> None:
    machine = pick(site, V3)
    address = machine.address
    salt = (await clients.v3(address, "get.device.info", "salt"))["msg"]["salt"]

    async def write(command: str, param: Any, **forged: Any) -> tuple[int, Any]:
        answer = await clients.v3(address, command, param, **{**signed(salt, command), **forged})
        return answer["code"], answer["msg"]

    assert await write("set.miner.service", "stop", token="AAAAAAAA") == (-4, "permission denied")
    assert await write("set.miner.service", "stop", account="guest") == (-4, "permission denied")
    assert (await clients.v3(address, "set.miner.service", "stop"))["code"] == -4
    assert site.truth(address).run_state is RunState.MINING
    assert await write("set.miner.service", "stop") == (0, "ok")
    await until(site, address, RunState.ASLEEP)
    assert (await clients.v3(address, "get.device.info"))["msg"]["miner"]["working"] == "false"
    assert await write("set.miner.service", "start") == (0, "ok")
    await until(site, address, RunState.MINING)
    assert await write("set.miner.power_mode", "low") == (0, "ok")
    await until(site, address, RunState.MINING)
    assert site.truth(address).power_mode is PowerMode.LOW
    before_w = site.truth(address).power_w
    assert await write("set.miner.power_limit", round(machine.exemplar.power_w / 2)) == (0, "ok")
    await until(site, address, RunState.MINING)
    assert site.truth(address).power_w < 0.6 * before_w
    assert await write("set.miner.power_percent", {"percent": "100", "mode": "normal"}) == (0, "ok")
    for command, param in (("set.miner.service", "dance"), ("set.miner.power_limit", "x")):
        assert (await write(command, param))[0] == -1
    assert (await write("set.miner.nonsense", None))[0] == -2


async def test_v3_frames_may_come_in_pieces_and_in_a_row(site: Site, pick: Callable) -> None:
    frame = json.dumps({"cmd": "get.miner.setting"}).encode()
    wire = (struct.pack("<I", len(frame)) + frame) * 2
    reader, writer = await asyncio.open_connection(pick(site, V3).address, 4433)
    for piece in (wire[:2], wire[2:10], wire[10:]):
        writer.write(piece)
        await asyncio.sleep(0.01)
    for _ in range(2):
        (length,) = struct.unpack("<I", await reader.readexactly(4))
        assert json.loads(await reader.readexactly(length))["code"] == 0
    writer.write(struct.pack("<I", 2**31))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_v3_machines_keep_a_degraded_v2(site: Site, pick: Callable, clients: Any) -> None:
    machine = pick(site, V3)
    assert (await clients.rpc(machine.address, "get_version"))["Msg"]["fw_ver"] == machine.firmware.version
    assert machine.firmware.version > "20241200"
    assert set((await clients.rpc(machine.address, "summary"))["SUMMARY"][0]) == {"Elapsed", "MHS av"}
    for command in ("devs", "get_psu", "get_token", "pools"):
        assert (await clients.rpc(machine.address, command))["Code"] == 14
