"""Stock Antminer X19/X21, TCP 4028: the cgminer API with Bitmain's own keys, classic and `new_api`.

The firmware refuses joined commands. Wattage is where `Firmware.watts_shown` says, or nowhere.
"""

import math
from collections.abc import Callable

from drivers.reading import PowerMode
from drivers.simulator.faults import Fault
from drivers.simulator.link import Reply
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.models import WattsShown
from drivers.simulator.rpc import Json, packed
from drivers.simulator.telemetry import BoardSaid, Said, observe

DESCRIPTION = "cgminer 1.0.0"
WORK_MODES = {
    PowerMode.NORMAL: 0,
    PowerMode.HIGH_EFFICIENCY: 2,
    PowerMode.LOW: 3,
}
SLEEP_MODE = 1
_CHIPS_PER_GROUP = 3
_FREQUENCY_MHZ = 525


def answer(machine: SimulatedMachine, request: Json | None) -> Reply:
    """Answer one request on port 4028."""
    if request is None:
        return Reply(body=_closed(_failure(machine, 23, "Invalid JSON")))
    command = request.get("command")
    table = _NEW_API if request.get("new_api") is True else _CLASSIC
    ask = table.get(command) if isinstance(command, str) else None
    machine.record(f"rpc:{str(command)[:40]}", "", "answered" if ask else "invalid command", writes=False)
    if ask is None:
        return Reply(body=_closed(_failure(machine, 14, "Invalid command")))
    return Reply(body=_closed(ask(machine, observe(machine))))


def _closed(body: Json) -> bytes:
    return packed(body) + b"\x00"


def work_mode(machine: SimulatedMachine) -> int:
    """The configured `bitmain-work-mode`."""
    asleep, mode = machine.staged or (machine.plant.asleep, machine.plant.mode)
    return SLEEP_MODE if asleep else WORK_MODES[mode]


# -- classic


def _status(said_when: int, code: int, message: str, status: str = "S") -> list[Json]:
    entry = {"STATUS": status, "When": said_when, "Code": code, "Msg": message, "Description": DESCRIPTION}
    return [entry]


def _failure(machine: SimulatedMachine, code: int, message: str) -> Json:
    when = int(machine.clock.utc().timestamp())
    return {"STATUS": _status(when, code, message, "E"), "id": 1}


def _build(machine: SimulatedMachine) -> Json:
    return {
        "BMMiner": "1.0.0",
        "Miner": machine.firmware.version,
        "CompileTime": machine.firmware.compiled,
        "Type": machine.exemplar.reported,
    }


def _version(machine: SimulatedMachine, said: Said) -> Json:
    build = {"API": "3.1", **_build(machine)}
    return {"STATUS": _status(said.when, 22, "CGMiner versions"), "VERSION": [build], "id": 1}


def _hollow(machine: SimulatedMachine, said: Said) -> bool:
    return machine.has(Fault.EMPTY_STATS) or (said.asleep and machine.firmware.empty_when_asleep)


def _summary(machine: SimulatedMachine, said: Said) -> Json:
    shares = int(said.elapsed_s / 12)
    summary = {
        "Elapsed": said.elapsed_s,
        "GHS 5s": round(said.hash_5s_ths * 1000, 2),
        "GHS av": round(said.hash_av_ths * 1000, 2),
        "GHS 30m": round(said.hash_30m_ths * 1000, 2),
        "Found Blocks": 0,
        "Getwork": shares,
        "Accepted": shares,
        "Rejected": shares // 400,
        "Hardware Errors": shares // 8,
        "Utility": 5.0,
        "Discarded": shares * 1100,
        "Stale": shares // 4000,
        "Get Failures": 1,
        "Local Work": shares * 1110,
        "Remote Failures": 0,
        "Network Blocks": said.elapsed_s // 600,
        "Total MH": round(said.hash_av_ths * 1e6 * said.elapsed_s, 1),
        "Work Utility": round(said.hash_av_ths * 13_970, 2),
        "Difficulty Accepted": shares * 524288.0,
        "Difficulty Rejected": shares // 400 * 524288.0,
        "Difficulty Stale": 0.0,
        "Best Share": 12_884_901_888 + machine.seed % 10_000_000,
        "Device Hardware%": 0.0,
        "Device Rejected%": 0.0,
        "Pool Rejected%": 0.0,
        "Pool Stale%": 0.0,
        "Last getwork": said.when,
    }
    inside = [] if _hollow(machine, said) else [summary]
    return {"STATUS": _status(said.when, 11, "Summary"), "SUMMARY": inside, "id": 1}


def _stats(machine: SimulatedMachine, said: Said) -> Json:
    inside = [] if _hollow(machine, said) else [_build(machine), _chains(machine, said)]
    return {"STATUS": _status(said.when, 70, "CGMiner stats"), "STATS": inside, "id": 1}


def _chains(machine: SimulatedMachine, said: Said) -> Json:
    stats: Json = {
        "STATS": 0,
        "ID": "BTM_SOC0",
        "Elapsed": said.elapsed_s,
        "Calls": 0,
        "Wait": 0,
        "Max": 0,
        "Min": 99999999,
        "GHS 5s": round(said.hash_5s_ths * 1000, 2),
        "GHS av": round(said.hash_av_ths * 1000, 2),
        "rate_30m": round(said.hash_30m_ths * 1000, 2),
        "Mode": 2,
        "miner_count": sum(board.alive for board in said.boards),
        "frequency": _FREQUENCY_MHZ,
        "fan_num": len(said.fans_rpm),
        **{f"fan{i + 1}": rpm for i, rpm in enumerate(said.fans_rpm)},
        "temp_num": len(said.boards),
    }
    for board in said.boards:
        stats |= _chain(machine, board, board.index + 1)
    stats |= {
        "temp_max": 0,
        "no_matching_work": said.elapsed_s // 90,
        "total_rateideal": said.ideal_ths * 1000,
        "rate_unit": "GH",
        "total_freqavg": _FREQUENCY_MHZ,
        "total_acn": sum(board.chips for board in said.boards),
        "total rate": round(said.hash_av_ths * 1000, 2),
        "miner_version": machine.firmware.version,
        "miner_id": f"{machine.seed & 0xFFFFFFFFFFFFFFFF:016x}",
    }
    if machine.firmware.watts_shown is WattsShown.CHAIN_POWER and said.power_w is not None:
        stats["chain_power"] = f"{_whole(said.power_w)} W"
    return stats


def _whole(watts: float) -> str:
    return "NaN" if math.isnan(watts) else str(round(watts))


def _four(low_high: tuple[float, float]) -> list[int]:
    low, high = low_high
    return [round(high), round(low), round(high - 4), round(high - 5)]


def _chain(machine: SimulatedMachine, board: BoardSaid, n: int) -> Json:
    pcb, chip = _four(board.pcb_c), _four(board.chip_c)
    pic = [max(0, celsius - 10) for celsius in pcb]
    return {
        f"freq{n}": _FREQUENCY_MHZ if board.alive else 0,
        f"chain_acn{n}": board.chips,
        f"chain_acs{n}": " ooo" * (board.chips // _CHIPS_PER_GROUP),
        f"chain_hw{n}": 180 + board.index if board.alive else 0,
        f"chain_rate{n}": f"{board.hashrate_ths * 1000:.2f}" if board.alive else "",
        f"temp{n}": pcb[0],
        f"temp2_{n}": chip[0],
        f"temp_chip{n}": "-".join(map(str, chip)),
        f"temp_pcb{n}": "-".join(map(str, pcb)),
        f"temp_pic{n}": "-".join(map(str, pic)),
    }


def _pools(machine: SimulatedMachine, said: Said) -> Json:
    shares = int(said.elapsed_s / 12)
    pools = []
    for index, pool in enumerate(machine.pools):
        used = shares if index == 0 else 0
        alive = said.pools_alive and bool(pool.url)
        entry = {
            "POOL": index,
            "URL": pool.url,
            "Status": "Alive" if alive else "Dead",
            "Priority": index,
            "Quota": 1,
            "Long Poll": "N",
            "Getworks": used,
            "Accepted": used,
            "Rejected": used // 400,
            "Discarded": used * 1100,
            "Stale": used // 4000,
            "Get Failures": 0,
            "Remote Failures": 0,
            "User": pool.user,
            "Last Share Time": "0:00:07" if used else "0",
            "Diff": "524K" if used else "",
            "Diff1 Shares": 0,
            "Proxy Type": "",
            "Proxy": "",
            "Difficulty Accepted": used * 524288.0,
            "Difficulty Rejected": 0.0,
            "Difficulty Stale": 0.0,
            "Last Share Difficulty": 524288.0 if used else 0.0,
            "Has Stratum": True,
            "Stratum Active": alive and index == 0,
            "Stratum URL": pool.url.partition("//")[2].partition(":")[0] if alive and index == 0 else "",
            "Has GBT": False,
            "Best Share": 0.0,
            "Pool Rejected%": 0.0,
            "Pool Stale%%": 0.0,
        }
        pools.append(entry)
    return {"STATUS": _status(said.when, 7, f"{len(pools)} Pool(s)"), "POOLS": pools, "id": 1}


def _devs(machine: SimulatedMachine, said: Said) -> Json:
    shares = int(said.elapsed_s / 12)
    device = {
        "ASC": 0,
        "Name": "BTM_SOC",
        "ID": 0,
        "Enabled": "Y",
        "Status": "Alive",
        "Tenperature": 0.0,
        "MHS av": 0.0,
        "MHS 5s": 0.0,
        "Accepted": shares,
        "Rejected": shares // 400,
        "Hardware Errors": 0,
        "Utility": 0.0,
        "Last Share Pool": 0,
        "Last Share Time": said.when,
        "Total MH": 0.0,
        "Diff1 Work": 0,
        "Difficulty Accepted": shares * 524288,
        "Difficulty Rejected": 0,
        "Last Share Difficulty": 524288,
        "Last Valid Work": said.when,
        "Device Hardware%": 0.0,
        "Device Rejected%": 0.0,
        "Device Elapsed": said.elapsed_s,
    }
    return {"STATUS": _status(said.when, 9, "1 ASC(s)"), "DEVS": [device], "id": 1}


def _devdetails(machine: SimulatedMachine, said: Said) -> Json:
    details = [
        {"DEVDETAILS": 0, "Name": "BTM_SOC", "ID": 0, "Driver": "bitmain", "Kernel": "", "Model": "bitmain"}
    ]
    return {"STATUS": _status(said.when, 69, "Device Details"), "DEVDETAILS": details, "id": 1}


_CLASSIC: dict[str, Callable[[SimulatedMachine, Said], Json]] = {
    "version": _version,
    "summary": _summary,
    "stats": _stats,
    "pools": _pools,
    "devs": _devs,
    "devdetails": _devdetails,
}


# -- new_api: the same documents as the web interface's summary.cgi, stats.cgi and pools.cgi


def _head(machine: SimulatedMachine, said: Said, message: str) -> Json:
    return {
        "STATUS": {"STATUS": "S", "when": said.when, "Msg": message, "api_version": "1.0.0"},
        "INFO": {
            "miner_version": machine.firmware.version,
            "CompileTime": machine.firmware.compiled,
            "type": machine.exemplar.reported,
        },
    }


def _rates(said: Said) -> Json:
    return {
        "elapsed": said.elapsed_s,
        "rate_5s": round(said.hash_5s_ths * 1000, 2),
        "rate_30m": round(said.hash_30m_ths * 1000, 2),
        "rate_avg": round(said.hash_av_ths * 1000, 2),
        "rate_ideal": said.ideal_ths * 1000,
        "rate_unit": "GH/s",
    }


def new_summary(machine: SimulatedMachine, said: Said) -> Json:
    """`summary.cgi` and `summary` with new_api."""
    lights = [
        {"type": kind, "status": "s", "code": 0, "msg": ""} for kind in ("rate", "network", "fans", "temp")
    ]
    if not said.pools_alive:
        lights[1] |= {"status": "e", "code": 1, "msg": "network error"}
    if not all(board.alive for board in said.boards):
        lights[0] |= {"status": "e", "code": 1, "msg": "rate is too low"}
    summary = {**_rates(said), "hw_all": said.elapsed_s // 90, "bestshare": 12_884_901_888, "status": lights}
    inside = [] if _hollow(machine, said) else [summary]
    return {**_head(machine, said, "summary"), "SUMMARY": inside}


def new_stats(machine: SimulatedMachine, said: Said) -> Json:
    """`stats.cgi` and `stats` with new_api."""
    stats: Json = {
        **_rates(said),
        "chain_num": len(said.boards),
        "fan_num": len(said.fans_rpm),
        "fan": list(said.fans_rpm),
        "hwp_total": 0.0,
        "miner-mode": work_mode(machine),
        "freq-level": int(machine.freq_level),
    }
    if machine.firmware.watts_shown is WattsShown.NEW_API and said.power_w is not None:
        stats["power"] = said.power_w if math.isnan(said.power_w) else round(said.power_w)
    stats["chain"] = [_new_chain(machine, board) for board in said.boards]
    inside = [] if _hollow(machine, said) else [stats]
    return {**_head(machine, said, "stats"), "STATS": inside}


def _new_chain(machine: SimulatedMachine, board: BoardSaid) -> Json:
    pcb = _four(board.pcb_c)
    return {
        "index": board.index,
        "freq_avg": _FREQUENCY_MHZ if board.alive else 0,
        "rate_ideal": round(board.ideal_ths * 1000, 2),
        "rate_real": round(board.hashrate_ths * 1000, 2),
        "asic_num": board.chips,
        "asic": " ooo" * (board.chips // _CHIPS_PER_GROUP),
        "temp_pic": [max(0, celsius - 10) for celsius in pcb],
        "temp_pcb": pcb,
        "temp_chip": _four(board.chip_c),
        "hw": 0,
        "eeprom_loaded": board.alive,
        "sn": f"{machine.serial[:13]}BJ{board.index:02d}" if board.alive else "",
        "hwp": 0.0,
    }


def new_pools(machine: SimulatedMachine, said: Said) -> Json:
    """`pools.cgi` and `pools` with new_api."""
    shares = int(said.elapsed_s / 12)
    pools = [
        {
            "index": index,
            "url": pool.url,
            "user": pool.user,
            "status": "Alive" if said.pools_alive and pool.url else "Dead",
            "priority": index,
            "getworks": shares if index == 0 else 0,
            "accepted": shares if index == 0 else 0,
            "rejected": 0,
            "discarded": 0,
            "stale": 0,
            "diff": "524K",
            "diff1": 0,
            "diffa": shares * 524288 if index == 0 else 0,
            "diffr": 0,
            "diffs": 0,
            "lsdiff": 524288,
            "lstime": "0:00:07",
        }
        for index, pool in enumerate(machine.pools)
    ]
    return {**_head(machine, said, "pools"), "POOLS": pools}


_NEW_API: dict[str, Callable[[SimulatedMachine, Said], Json]] = {
    "summary": new_summary,
    "stats": new_stats,
    "pools": new_pools,
}
