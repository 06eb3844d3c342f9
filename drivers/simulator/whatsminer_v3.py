"""Whatsminer API V3: framed JSON on TCP 4433, and the degraded V2 that the same machines keep on 4028.

A frame is a 4-byte little-endian length and JSON. Writes carry a token computed from command, password, salt and
time. The degraded V2 identifies the machine and tells little else: no wattage, no short averages, no writes.
"""

import base64
import hashlib
import hmac
import json
import math
import struct
from collections.abc import Callable

from drivers.reading import PowerMode
from drivers.simulator.faults import Fault
from drivers.simulator.link import Link, Reply, spoil
from drivers.simulator.machine import SimulatedMachine, WriteOutcome
from drivers.simulator.models import Cooling
from drivers.simulator.rpc import Json, packed
from drivers.simulator.telemetry import BoardSaid, Said, observe
from drivers.simulator.whatsminer_v2 import limit_fraction
from drivers.simulator.whatsminer_v2_reads import (
    INVALID,
    devdetails,
    get_miner_info,
    get_version,
    message,
    status,
)

API_VERSION = "3.0.2"
ACCOUNT = "super"
FACTORY_PASSWORD = "super"  # noqa: S105 - what the factory sets
OK, FAILED, INVALID_COMMAND, INVALID_JSON, DENIED = 0, -1, -2, -3, -4
FRAME_LIMIT_BYTES = 16 * 1024
_MODES = {"low": PowerMode.LOW, "normal": PowerMode.NORMAL, "high": PowerMode.HIGH}


class FramedConversation:
    """Frames on port 4433. The connection stays open for more."""

    def __init__(self, machine: SimulatedMachine, link: Link) -> None:
        self._machine = machine
        self._link = link
        self._buffer = b""

    def receive(self, data: bytes) -> None:
        """Answer every complete frame."""
        self._buffer += data
        while len(self._buffer) >= 4:
            (length,) = struct.unpack_from("<I", self._buffer)
            if length > FRAME_LIMIT_BYTES:
                self._link.reset()
                return
            if len(self._buffer) < 4 + length:
                return
            frame, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
            self._answer(frame)

    def _answer(self, frame: bytes) -> None:
        reply = answer(self._machine, frame)
        body = reply.body if reply.writes else spoil(self._machine, reply.body)
        wire = struct.pack("<I", len(body)) + body
        self._link.answer(wire, writes=reply.writes, crashed=reply.crashed, close=False)


def answer(machine: SimulatedMachine, frame: bytes) -> Reply:
    """Answer one frame's JSON."""
    try:
        request = json.loads(frame)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("cmd"), str):
        return Reply(body=_packet(machine, INVALID_JSON, "invalid json", ""))
    command = request["cmd"][:60]
    if command.startswith("set."):
        return _write(machine, command, request)
    read = _READS.get(command)
    machine.record(f"v3:{command}", str(request.get("param") or ""), "answered", writes=False)
    if read is None:
        return Reply(body=_packet(machine, INVALID_COMMAND, "invalid command", command))
    return Reply(body=_packet(machine, OK, read(machine, request.get("param")), command))


def _packet(machine: SimulatedMachine, code: int, text: str | Json, command: str) -> bytes:
    when = int(machine.clock.utc().timestamp())
    return packed({"code": code, "when": when, "msg": text, "desc": command})


# -- reads


def _device_info(machine: SimulatedMachine, param: object) -> Json:
    said = observe(machine)
    boards = {f"pcbsn{b.index}": f"{machine.serial[:12]}K{b.index:05d}" for b in said.boards if b.alive}
    errors: list[Json] = [
        {f"541{board.index}": "1970-01-01 00:00:00", "reason": f"Slot {board.index} not found"}
        for board in said.boards
        if not board.alive
    ]
    info: Json = {
        "error-code": errors,
        "miner": {
            "board-num": str(len(said.boards)),
            "detect-hash-rate": ":".join(str(round(b.ideal_ths * 1000)) for b in said.boards),
            "fast-boot": "disable",
            "hash-board": machine.exemplar.reported.partition("V")[2],
            "hash-percent": "0",
            "miner-sn": machine.serial,
            **boards,
            "pool-strategy": "FAILOVER",
            "type": machine.exemplar.reported,
            "working": "false" if said.asleep else "true",
        },
        "network": {
            "dns": "",
            "gateway": "",
            "hostname": "WhatsMiner",
            "ip": machine.address,
            "mac": machine.claimed_mac,
            "netmask": "255.255.0.0",
            "proto": "dhcp",
        },
        "power": {
            "fanspeed": 6300 if machine.exemplar.cooling is Cooling.AIR else 0,
            "hwversion": "RT0159",
            "mode": "1",
            "model": "P221B",
            "sn": f"{machine.serial[-10:]}P",
            "swversion": "230224.220429",
            "type": "P221B",
            "vendor": "1",
        },
        "salt": salt(machine),
        "system": {
            "api": API_VERSION,
            "apiswitch": "1",
            "control-board-version": "CB6V10",
            "fwversion": machine.firmware.version,
            "ledstatus": "manual" if machine.locator_on else "auto",
            "platform": "H616",
        },
    }
    if not errors:
        del info["error-code"]
    return {param: info[param]} if isinstance(param, str) and param in info else info


def _miner_status(machine: SimulatedMachine, param: object) -> Json:
    said = observe(machine)
    names = param.split("+") if isinstance(param, str) else []
    return {name: _STATUS[name](machine, said) for name in names if name in _STATUS}


def _summary(machine: SimulatedMachine, said: Said) -> Json:
    if machine.has(Fault.EMPTY_STATS):
        return {}
    low_c, high_c = said.chip_c
    summary: Json = {
        "elapsed": said.elapsed_s,
        "bootup-time": 1320,
        "freq-avg": 0 if said.asleep else 625,
        "target-freq": 625,
        "factory-hash": round(said.ideal_ths, 3),
        "hash-average": round(said.hash_av_ths, 3),
        "hash-1min": round(said.hash_1m_ths, 3),
        "hash-15min": round(said.hash_15m_ths, 3),
        "hash-realtime": round(said.hash_5s_ths, 3),
        "power-limit": round(machine.exemplar.power_w * 1.05 * machine.plant.power_fraction),
        "environment-temperature": round(said.inlet_c, 1),
        "board-temperature": [round(board.pcb_c[1], 1) for board in said.boards],
        "chip-temp-min": round(low_c, 1),
        "chip-temp-avg": round((low_c + high_c) / 2, 1),
        "chip-temp-max": round(high_c, 1),
        "up-freq-finish": int(not said.asleep),
    }
    if said.fans_rpm:
        summary |= {"fan-speed-in": said.fans_rpm[0], "fan-speed-out": said.fans_rpm[1]}
    if said.power_w is not None:
        watts = said.power_w if math.isnan(said.power_w) else float(round(said.power_w))
        rate = watts / said.hash_5s_ths if said.hash_5s_ths else 0.0
        summary |= {"power-realtime": watts, "power-5min": watts, "power-rate": round(rate, 2)}
    return summary


def _pools(machine: SimulatedMachine, said: Said) -> list[Json]:
    return [
        {
            "id": index,
            "url": pool.url,
            "account": pool.user,
            "status": "alive" if said.pools_alive and pool.url else "dead",
            "stratum-active": said.pools_alive and bool(pool.url) and index == 0,
            "pool-priority": index,
        }
        for index, pool in enumerate(machine.pools)
    ]


def _edevs(machine: SimulatedMachine, said: Said) -> list[Json]:
    return [] if machine.has(Fault.EMPTY_STATS) else [_edev(said, board) for board in said.boards]


def _edev(said: Said, board: BoardSaid) -> Json:
    low_c, high_c = board.chip_c
    return {
        "id": board.index,
        "status": "alive" if board.alive else "dead",
        "hash-average": round(board.hashrate_ths, 2),
        "hash-realtime": round(board.hashrate_ths, 2),
        "factory-hash": round(board.ideal_ths, 2),
        "freq": 0.0 if said.asleep or not board.alive else 625.0,
        "effective-chips": board.chips,
        "chip-temp-min": round(low_c, 1),
        "chip-temp-avg": round((low_c + high_c) / 2, 1),
        "chip-temp-max": round(high_c, 1),
    }


def _setting(machine: SimulatedMachine, _: object) -> Json:
    plant = machine.plant
    return {
        "power-limit": round(machine.exemplar.power_w * 1.05 * plant.power_fraction),
        "power-mode": plant.mode.value,
        "power-percent": round(100 * plant.power_fraction),
        "upfreq-speed": 0,
        "fast-boot": "disable",
        "heat-mode": "normal",
        "target-freq": 0,
    }


_STATUS: dict[str, Callable[[SimulatedMachine, Said], Json | list[Json]]] = {
    "summary": _summary,
    "pools": _pools,
    "edevs": _edevs,
}
_READS: dict[str, Callable[[SimulatedMachine, object], Json]] = {
    "get.device.info": _device_info,
    "get.miner.status": _miner_status,
    "get.miner.setting": _setting,
}


# -- writes


def salt(machine: SimulatedMachine) -> str:
    """The machine's salt, for tokens."""
    digest = hashlib.sha256(b"v3" + machine.serial.encode()).digest()
    return base64.b64encode(digest, altchars=b"xy").decode()[:8]


def _token(machine: SimulatedMachine, command: str, at: int) -> str:
    text = f"{command}{machine.password(FACTORY_PASSWORD)}{salt(machine)}{at}"
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()[:8]


def _write(machine: SimulatedMachine, command: str, request: Json) -> Reply:
    kind, summary = f"v3:{command}", str(request.get("param"))
    make = _WRITES.get(command)
    code, text = OK, "ok"
    apply: Apply | None = None
    if not _permitted(machine, command, request):
        code, text = DENIED, "permission denied"
    elif make is None:
        code, text = INVALID_COMMAND, "invalid command"
    else:
        try:
            apply = make(machine, request.get("param"))
        except (ValueError, TypeError, KeyError):
            code, text = FAILED, "invalid param"
    if apply is None:
        machine.record(kind, summary, f"code {code}", writes=True)
        return Reply(body=_packet(machine, code, text, command), writes=True)
    outcome = machine.change(kind, summary, apply)
    if outcome is WriteOutcome.REFUSED:
        code, text = FAILED, "command error"
    body = _packet(machine, code, text, command)
    return Reply(body=body, writes=True, crashed=outcome is WriteOutcome.CRASHED)


def _permitted(machine: SimulatedMachine, command: str, request: Json) -> bool:
    token, at = request.get("token"), request.get("ts")
    if not isinstance(at, int) or not isinstance(token, str) or request.get("account") != ACCOUNT:
        return False
    expected = _token(machine, command, at)
    right = hmac.compare_digest(expected.encode(), token.encode())
    return right and not machine.has(Fault.WRITES_CLOSED)


Apply = Callable[[float], None]


def _service(machine: SimulatedMachine, param: object) -> Apply:
    return {
        "stop": machine.sleep,
        "start": machine.wake,
        "restart": machine.plant.restart,
    }[str(param)]


def _power_mode(machine: SimulatedMachine, param: object) -> Apply:
    mode = _MODES[str(param)]
    return lambda at_s: machine.set_mode(at_s, mode)


def _power_limit(machine: SimulatedMachine, param: object) -> Apply:
    watts = int(str(param))
    if not 0 <= watts <= 99_999:
        raise ValueError(watts)
    return lambda at_s: machine.set_power_fraction(at_s, limit_fraction(machine, watts), seconds=None)


def _power_percent(machine: SimulatedMachine, param: object) -> Apply:
    percent = int(str(param["percent"] if isinstance(param, dict) else param))
    if not 0 <= percent <= 100:
        raise ValueError(percent)
    return lambda at_s: machine.set_power_fraction(at_s, percent / 100, seconds=1.0)


def _led(machine: SimulatedMachine, param: object) -> Apply:
    def apply(_: float) -> None:
        machine.locator_on = param != "auto"

    return apply


_WRITES: dict[str, Callable[[SimulatedMachine, object], Apply]] = {
    "set.miner.service": _service,
    "set.miner.power_mode": _power_mode,
    "set.miner.power_limit": _power_limit,
    "set.miner.power_percent": _power_percent,
    "set.system.reboot": lambda machine, _: machine.reboot,
    "set.system.led": _led,
}


# -- the degraded V2 on port 4028


def answer_degraded(machine: SimulatedMachine, request: Json | None) -> Reply:
    """What a V3 machine still says on port 4028."""
    command = str((request or {}).get("command", (request or {}).get("cmd", "")))[:60]
    read = _DEGRADED.get(command)
    machine.record(f"v2:{command}", "", "answered" if read else "invalid cmd", writes=False)
    if read is None:
        return Reply(body=packed(message(machine, INVALID, "invalid cmd", "E")))
    return Reply(body=packed(read(machine, observe(machine))))


def _degraded_summary(machine: SimulatedMachine, said: Said) -> Json:
    entry = {"STATUS": "S", "When": said.when, "Code": 11, "Msg": "Summary", "Description": "btminer"}
    summary = {"Elapsed": said.elapsed_s, "MHS av": round(said.hash_av_ths * 1e6, 2)}
    return {"STATUS": [entry], "SUMMARY": [summary], "id": 1}


def _degraded_devdetails(machine: SimulatedMachine, said: Said) -> Json:
    return {**devdetails(machine, said), "id": 1}


_DEGRADED: dict[str, Callable[[SimulatedMachine, Said], Json]] = {
    "summary": _degraded_summary,
    "devdetails": _degraded_devdetails,
    "get_version": get_version,
    "get_miner_info": get_miner_info,
    "status": status,
}
