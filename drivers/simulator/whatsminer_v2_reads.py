"""Whatsminer API V2, the reads on TCP 4028: plain JSON, hashrates in MH/s.

Reads other than `get_*` and `status` join with `+`. Old firmware stops its mining process in sleep, and whatever
that process answers is then refused by the proxy in front of it.
"""

import math
from collections.abc import Callable

from drivers.reading import PowerMode
from drivers.simulator import whatsminer_keys as keys
from drivers.simulator.faults import Fault
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.models import Cooling
from drivers.simulator.rpc import Json, packed
from drivers.simulator.telemetry import BoardSaid, Said, observe

API_VERSION = "2.0.5"
DESCRIPTION = "btminer"
OK, FAILED, UNSUPPORTED, INVALID, BAD_JSON, DENIED = 131, 132, 134, 14, 23, 45
BAD_TOKEN, TOKENS_OVER, BAD_BASE64 = 135, 136, 137
_REFUSED_BEHIND_PROXY = b"Socket connect failed: Connection refused\n"
_POWER_MODES = {PowerMode.LOW: "Low", PowerMode.NORMAL: "Normal", PowerMode.HIGH: "High"}


def message(machine: SimulatedMachine, code: int, text: str | Json, status: str = "S") -> Json:
    """An answer in the machine's own envelope."""
    when = int(machine.clock.utc().timestamp())
    return {"STATUS": status, "When": when, "Code": code, "Msg": text, "Description": DESCRIPTION}


def line(body: Json) -> bytes:
    """An answer as it goes out."""
    return packed(body) + b"\n"


def read(machine: SimulatedMachine, command: str) -> bytes:
    """Answer one plain command."""
    said = observe(machine)
    if command in _INFO:
        return line(_INFO[command](machine, said))
    names = command.split("+")
    if len(names) > 8 or not all(name in _LISTS for name in names):
        return line(message(machine, INVALID, "invalid cmd", "E"))
    if said.asleep and machine.firmware.old_btminer and any(name != "summary" for name in names):
        return _REFUSED_BEHIND_PROXY
    if len(names) == 1:
        return line({**_LISTS[command](machine, said), "id": 1})
    return line({**{name: [_LISTS[name](machine, said)] for name in names}, "id": 1})


def _status(said: Said, code: int, text: str) -> list[Json]:
    return [{"STATUS": "S", "When": said.when, "Code": code, "Msg": text, "Description": DESCRIPTION}]


def _mhs(hashrate_ths: float) -> float:
    return round(hashrate_ths * 1e6, 2)


def _rates(said: Said) -> Json:
    return {
        "MHS av": _mhs(said.hash_av_ths),
        "MHS 5s": _mhs(said.hash_5s_ths),
        "MHS 1m": _mhs(said.hash_1m_ths),
        "MHS 5m": _mhs(said.hash_15m_ths),
        "MHS 15m": _mhs(said.hash_15m_ths),
        "HS RT": _mhs(said.hash_1m_ths),
    }


def _fan(said: Said, index: int) -> int:
    return said.fans_rpm[index] if said.fans_rpm else 0


def _summary(machine: SimulatedMachine, said: Said) -> Json:
    if machine.has(Fault.EMPTY_STATS):
        return {"STATUS": _status(said, 11, "Summary"), "SUMMARY": []}
    shares = int(said.elapsed_s / 5)
    low_c, high_c = said.chip_c
    limit_w = round(machine.exemplar.power_w * 1.05)
    summary: Json = {
        "Elapsed": said.elapsed_s,
        **_rates(said),
        "Found Blocks": 0,
        "Getworks": shares,
        "Accepted": shares,
        "Rejected": shares // 500,
        "Hardware Errors": shares // 30,
        "Utility": 12.0,
        "Discarded": shares * 260,
        "Stale": 0,
        "Get Failures": 0,
        "Local Work": shares * 34_000,
        "Remote Failures": 0,
        "Network Blocks": said.elapsed_s // 600,
        "Total MH": round(said.hash_av_ths * 1e6 * said.elapsed_s),
        "Work Utility": round(said.hash_av_ths * 55, 2),
        "Difficulty Accepted": shares * 65536.0,
        "Difficulty Rejected": 0.0,
        "Difficulty Stale": 0.0,
        "Best Share": 39_000_000 + machine.seed % 1_000_000,
        "Temperature": round(max(board.pcb_c[1] for board in said.boards), 1),
        "freq_avg": 0 if said.asleep else 640,
        "Fan Speed In": _fan(said, 0),
        "Fan Speed Out": _fan(said, 1),
        "Voltage": 1180,
        "Power Limit": round(limit_w * machine.plant.power_fraction),
        "Chip Temp Min": round(low_c, 2),
        "Chip Temp Max": round(high_c, 2),
        "Chip Temp Avg": round((low_c + high_c) / 2, 2),
        "Device Hardware%": 0.01,
        "Device Rejected%": 0.0,
        "Pool Rejected%": 0.0,
        "Pool Stale%": 0.0,
        "Last getwork": 0,
        "Uptime": said.elapsed_s + 640,
        "Power Mode": _POWER_MODES[machine.plant.mode],
        "Power Fanspeed": 0 if machine.exemplar.cooling is not Cooling.AIR else 8900,
        "Env Temp": round(said.inlet_c, 1),
        "Factory GHS": round(said.ideal_ths * 1000),
        "Hash Stable": not said.asleep,
        "Hash Stable Cost Seconds": 1500,
        "Target Freq": 640,
        "Target MHS": round(said.ideal_ths * 1e6),
        "Error Code Count": 0,
        "Factory Error Code Count": 0,
        "Security Mode": 0,
        "Liquid Cooling": machine.exemplar.cooling is not Cooling.AIR,
        "Firmware Version": f"'{machine.firmware.version}'",
        "CB Platform": "H6OS",
        "CB Version": "V10",
        "MAC": machine.claimed_mac,
        "Upfreq Complete": int(not said.asleep),
    }
    if said.power_w is not None:
        watts = said.power_w if math.isnan(said.power_w) else round(said.power_w)
        summary |= {"Power": watts, "Power_RT": watts}
        if watts and not math.isnan(watts):
            summary["Power Rate"] = round(watts / max(said.hash_1m_ths, 0.001), 2)
    return {"STATUS": _status(said, 11, "Summary"), "SUMMARY": [summary]}


def _devs(machine: SimulatedMachine, said: Said) -> Json:
    boards = [] if machine.has(Fault.EMPTY_STATS) else [_dev(machine, said, board) for board in said.boards]
    return {"STATUS": _status(said, 9, f"{len(boards)} ASC(s)"), "DEVS": boards}


def _dev(machine: SimulatedMachine, said: Said, board: BoardSaid) -> Json:
    low_c, high_c = board.chip_c
    rate = _mhs(board.hashrate_ths)
    return {
        "ASC": board.index,
        "Slot": board.index,
        "Name": "SM",
        "ID": board.index,
        "Enabled": "Y",
        "Status": "Alive" if board.alive else "Dead",
        "Temperature": round(board.pcb_c[1], 1),
        "Chip Frequency": 640 if board.alive and not said.asleep else 0,
        "MHS av": rate,
        "MHS 5s": rate,
        "MHS 1m": rate,
        "MHS 5m": rate,
        "MHS 15m": rate,
        "HS RT": rate,
        "HS Factory": round(board.ideal_ths * 1000),
        "Accepted": said.elapsed_s // 15,
        "Rejected": 0,
        "Hardware Errors": 12,
        "Utility": 4.0,
        "Last Share Pool": 0,
        "Last Share Time": said.when,
        "Total MH": round(board.hashrate_ths * 1e6 * said.elapsed_s),
        "Last Valid Work": said.when,
        "Device Hardware%": 0.01,
        "Device Rejected%": 0.0,
        "Device Elapsed": said.elapsed_s,
        "Upfreq Complete": int(board.alive and not said.asleep),
        "Effective Chips": board.chips,
        "PCB SN": f"{machine.serial[:12]}K{board.index:05d}" if board.alive else "",
        "Chip Temp Min": round(low_c, 2),
        "Chip Temp Max": round(high_c, 2),
        "Chip Temp Avg": round((low_c + high_c) / 2, 2),
        "chip_vol_diff": 8,
    }


def _pools(machine: SimulatedMachine, said: Said) -> Json:
    shares = int(said.elapsed_s / 5)
    pools = []
    for index, pool in enumerate(machine.pools):
        used = shares if index == 0 else 0
        alive = said.pools_alive and bool(pool.url)
        entry = {
            "POOL": index + 1,
            "URL": pool.url,
            "Status": "Alive" if alive else "Dead",
            "Priority": index,
            "Quota": 1,
            "Long Poll": "N",
            "Getworks": used,
            "Accepted": used,
            "Rejected": used // 500,
            "Works": used * 34_000,
            "Discarded": used * 260,
            "Stale": 0,
            "Get Failures": 0,
            "Remote Failures": 0,
            "User": pool.user,
            "Last Share Time": said.when if used else 0,
            "Diff1 Shares": used * 260,
            "Difficulty Accepted": used * 65536.0,
            "Difficulty Rejected": 0.0,
            "Difficulty Stale": 0.0,
            "Last Share Difficulty": 65536.0 if used else 0.0,
            "Has Stratum": True,
            "Stratum Active": alive and index == 0,
            "Stratum URL": pool.url.partition("//")[2].partition(":")[0],
            "Stratum Difficulty": 65536.0 if used else 0.0,
            "Best Share": 39_000_000 if used else 0,
            "Pool Rejected%": 0.0,
            "Pool Stale%": 0.0,
            "Bad Work": 0,
        }
        pools.append(entry)
    return {"STATUS": _status(said, 7, f"{len(pools)} Pool(s)"), "POOLS": pools}


def devdetails(machine: SimulatedMachine, said: Said) -> Json:
    """The boards' drivers and the model, as it writes itself."""
    details = [
        {
            "DEVDETAILS": board.index,
            "Name": "SM",
            "ID": board.index,
            "Driver": "bitmicro",
            "Kernel": "",
            "Model": machine.exemplar.reported,
        }
        for board in said.boards
    ]
    return {"STATUS": _status(said, 69, "Device Details"), "DEVDETAILS": details}


def get_version(machine: SimulatedMachine, said: Said) -> Json:
    """API and firmware version."""
    version = {"api_ver": API_VERSION, "fw_ver": machine.firmware.version, "platform": "H6OS", "chip": ""}
    return message(machine, OK, version)


def get_miner_info(machine: SimulatedMachine, said: Said) -> Json:
    """Network, MAC and serial number."""
    info = {
        "ip": machine.address,
        "proto": "dhcp",
        "netmask": "255.255.0.0",
        "gateway": "",
        "dns": "",
        "hostname": "WhatsMiner",
        "mac": machine.claimed_mac,
        "ledstat": "manual" if machine.locator_on else "auto",
        "minersn": machine.serial,
        "powersn": f"{machine.serial[-10:]}P",
    }
    return message(machine, OK, info)


def status(machine: SimulatedMachine, said: Said) -> Json:
    """Whether it was told to stop, under the key of its firmware."""
    key = "btmineroff" if machine.firmware.old_btminer else "mineroff"
    return message(
        machine,
        OK,
        {key: "true" if said.asleep else "false", "Firmware Version": f"'{machine.firmware.version}'"},
    )


def _get_psu(machine: SimulatedMachine, said: Said) -> Json:
    psu = {
        "name": "P221B",
        "hw_version": "V01.00",
        "sw_version": "V01.00.V01.03",
        "model": "P221B",
        "iin": str(round(machine.plant.power_w(machine.clock.seconds()) / 230 * 1000)),
        "vin": "23000",
        "fan_speed": "8900" if machine.exemplar.cooling is Cooling.AIR else "0",
        "version": "-1",
        "serial_no": f"{machine.serial[-10:]}P",
        "vendor": "1",
        "temp0": f"{said.inlet_c + 12:.1f}",
    }
    return message(machine, OK, psu)


def _get_error_code(machine: SimulatedMachine, said: Said) -> Json:
    codes = [{"541" + str(b.index): "1970-01-01 00:00:00"} for b in said.boards if not b.alive]
    return message(machine, OK, {"error_code": codes})


def _get_token(machine: SimulatedMachine, _: Said) -> Json:
    if machine.has(Fault.TOKEN_LIMIT):
        return message(machine, TOKENS_OVER, "over max connect", "E")
    token = keys.issue(machine)
    if token is None:
        return message(machine, TOKENS_OVER, "over max connect", "E")
    return message(machine, 133, {"time": token.time, "salt": token.salt, "newsalt": token.newsalt})


_LISTS: dict[str, Callable[[SimulatedMachine, Said], Json]] = {
    "summary": _summary,
    "devs": _devs,
    "edevs": _devs,
    "pools": _pools,
    "devdetails": devdetails,
}
_INFO: dict[str, Callable[[SimulatedMachine, Said], Json]] = {
    "get_version": get_version,
    "get_miner_info": get_miner_info,
    "status": status,
    "get_psu": _get_psu,
    "get_error_code": _get_error_code,
    "get_token": _get_token,
}
