"""Stock Antminer X19/X21, HTTP: the `/cgi-bin/*.cgi` documents on port 80 and the wattage on port 6060.

Writing the configuration has the effects that it has on a machine: pools, fans, sleep and mode, and a reload.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from drivers.reading import PowerMode
from drivers.simulator.antminer import SLEEP_MODE, WORK_MODES, new_pools, new_stats, new_summary, work_mode
from drivers.simulator.faults import Fault
from drivers.simulator.http import WebReply, WebRequest, authorized, challenge
from drivers.simulator.link import spoil
from drivers.simulator.machine import PoolSetting, SimulatedMachine, WriteOutcome
from drivers.simulator.rpc import Json, packed
from drivers.simulator.telemetry import observe

USERNAME = "root"
FACTORY_PASSWORD = "root"  # noqa: S105 - what the factory sets
_MODES = {code: mode for mode, code in WORK_MODES.items()}
_DENIED = b"<html><head><title>401 Unauthorized</title></head><body>401 - Unauthorized</body></html>"
_MISSING = b"<html><head><title>404 Not Found</title></head><body>404 - Not Found</body></html>"


def respond(machine: SimulatedMachine, request: WebRequest) -> WebReply:
    """Answer one request on port 80: everything needs the digest."""
    now_s = machine.clock.monotonic()
    if now_s < machine.locked_until_s:
        machine.record(f"web:{request.path[:60]}", "", "locked out", writes=False)
        return WebReply(crashed=True)
    if not authorized(machine, request, USERNAME, machine.password(FACTORY_PASSWORD)):
        if request.authorization and machine.has(Fault.WRONG_PASSWORD):
            machine.locked_until_s = now_s + machine.number(Fault.WRONG_PASSWORD, "seconds")
        return WebReply(status=401, body=_DENIED, content_type="text/html", headers=(challenge(machine),))
    name = request.path.removeprefix("/cgi-bin/").removesuffix(".cgi")
    if not request.path.startswith("/cgi-bin/"):
        name = ""
    if name in _WRITES:
        return _WRITES[name](machine, request)
    if name in _READS:
        return _read(machine, name)
    machine.record(f"web:{request.path[:60]}", "", "not found", writes=False)
    return WebReply(status=404, body=_MISSING, content_type="text/html")


def respond_6060(machine: SimulatedMachine, request: WebRequest) -> WebReply:
    """Answer one request on port 6060: the wattage, as text, to anybody."""
    known = request.path == "/miner_power"
    machine.record("6060:miner_power", "", "answered" if known else "error", writes=False)
    watts = observe(machine).power_w
    if not known or watts is None:
        return WebReply(body=b"error 6060 cmd", content_type="text/plain")
    shown = "NaN" if math.isnan(watts) else str(round(watts))
    return WebReply(body=spoil(machine, f"miner power:{shown}".encode()), content_type="text/plain")


# -- reads


def _read(machine: SimulatedMachine, name: str) -> WebReply:
    if name == "get_miner_conf" and machine.use_up(Fault.CONFIG_READ_FAILS, "times"):
        machine.record("web:get_miner_conf", "", "HTTP 500", writes=False)
        return WebReply(status=500, body=b"Internal Server Error", content_type="text/html")
    machine.record(f"web:{name}", "", "answered", writes=False)
    return WebReply(body=spoil(machine, packed(_READS[name](machine))))


def _system_info(machine: SimulatedMachine) -> Json:
    return {
        "minertype": machine.exemplar.reported,
        "nettype": "DHCP",
        "netdevice": "eth0",
        "macaddr": machine.claimed_mac,
        "hostname": "antMiner",
        "ipaddress": machine.address,
        "netmask": "255.255.0.0",
        "gateway": "",
        "dnsservers": "",
        "system_mode": "GNU/Linux",
        "system_kernel_version": "Linux 4.6.0-xilinx-gff8137b-dirty #25 SMP PREEMPT",
        "system_filesystem_version": machine.firmware.compiled,
        "firmware_type": "Release",
        "Algorithm": "sha256d",
        "serinum": machine.serial,
    }


def _network_info(machine: SimulatedMachine) -> Json:
    return {
        "nettype": "DHCP",
        "netdevice": "eth0",
        "macaddr": machine.claimed_mac,
        "ipaddress": machine.address,
        "netmask": "255.255.0.0",
        "conf_nettype": "DHCP",
        "conf_hostname": "antMiner",
        "conf_ipaddress": "",
        "conf_netmask": "",
        "conf_gateway": "",
        "conf_dnsservers": "",
    }


def _miner_conf(machine: SimulatedMachine) -> Json:
    machine.plant.advance(machine.clock.seconds())
    return {
        "pools": [{"url": p.url, "user": p.user, "pass": p.password} for p in machine.pools],
        "api-listen": True,
        "api-network": True,
        "api-groups": "A:stats:pools:devs:summary:version",
        "api-allow": "A:0/0,W:*",
        "bitmain-fan-ctrl": machine.fan_control,
        "bitmain-fan-pwm": machine.fan_pwm,
        "bitmain-use-vil": True,
        "bitmain-freq": "525",
        "bitmain-voltage": "1400",
        "bitmain-ccdelay": "1",
        "bitmain-pwth": "1",
        "bitmain-work-mode": str(work_mode(machine)),
        "bitmain-freq-level": machine.freq_level,
    }


def _blink_status(machine: SimulatedMachine) -> Json:
    return {"blink": machine.locator_on}


_READS: dict[str, Callable[[SimulatedMachine], Json]] = {
    "get_system_info": _system_info,
    "get_network_info": _network_info,
    "get_miner_conf": _miner_conf,
    "get_blink_status": _blink_status,
    "summary": lambda machine: new_summary(machine, observe(machine)),
    "stats": lambda machine: new_stats(machine, observe(machine)),
    "pools": lambda machine: new_pools(machine, observe(machine)),
}


# -- writes


class UnusableError(Exception):
    """A configuration that the machine does not take: an HTTP status, or a refusal with HTTP 200."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


def _set_miner_conf(machine: SimulatedMachine, request: WebRequest) -> WebReply:
    posted = _parsed(request.body)
    try:
        pools, mode = _posted_pools(machine, posted), _posted_mode(machine, posted)
    except UnusableError as error:
        machine.record("web:set_miner_conf", _summary(posted), f"refused: {error}", writes=True)
        if error.status != 200:
            return WebReply(status=error.status, body=b"Bad Request", content_type="text/html", writes=True)
        return WebReply(body=packed({"stats": "error", "code": "M001", "msg": str(error)}), writes=True)

    def apply(at_s: float) -> None:
        _apply(machine, at_s, posted, pools, mode)

    match machine.change("web:set_miner_conf", _summary(posted), apply):
        case WriteOutcome.REFUSED:
            body = packed({"stats": "error", "code": "M001", "msg": "Invalid pool!"})
        case WriteOutcome.CRASHED:
            return WebReply(writes=True, crashed=True)
        case _:
            body = packed({"stats": "success", "code": "M000", "msg": "OK!"})
    return WebReply(body=body, writes=True)


def _parsed(body: bytes) -> Json:
    """The posted object; of anything else, nothing."""
    try:
        posted = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return posted if isinstance(posted, dict) else {}


def _summary(posted: Json) -> str:
    keys = ("miner-mode", "bitmain-work-mode", "freq-level")
    shown = [f"{key}={posted[key]!r}" for key in keys if key in posted]
    pools = posted.get("pools")
    if isinstance(pools, list):
        shown.append(f"pools={[p.get('url') for p in pools[:3] if isinstance(p, dict)]}")
    return " ".join(shown)


def _posted_pools(machine: SimulatedMachine, posted: Json) -> tuple[PoolSetting, ...]:
    pools = posted.get("pools")
    if pools is None:
        return machine.pools
    if not isinstance(pools, list) or not all(isinstance(pool, dict) for pool in pools):
        raise UnusableError("Invalid pool!")
    return tuple(
        PoolSetting(
            url=str(pool.get("url", ""))[:256],
            user=str(pool.get("user", ""))[:256],
            password=str(pool.get("pass", ""))[:256],
        )
        for pool in pools[:3]
    )


def _posted_mode(machine: SimulatedMachine, posted: Json) -> int | None:
    """The mode that takes effect, or None where the post carries none that this firmware heeds."""
    if not posted:
        raise UnusableError("not an object", status=400)
    given = [posted.get("miner-mode"), posted.get("bitmain-work-mode")]
    if machine.has(Fault.WANTS_STRINGS) and any(isinstance(value, int) for value in given):
        raise UnusableError("mode must be a string", status=400)
    heard = given[1] if machine.has(Fault.WORK_MODE_KEY) else given[0]
    if heard is None or (machine.has(Fault.BOTH_MODE_KEYS) and str(given[0]) != str(given[1])):
        return None
    mode = _as_mode(heard)
    if mode != SLEEP_MODE and _MODES.get(mode) not in machine.exemplar.modes:
        raise UnusableError("Invalid mode!")
    return mode


def _as_mode(value: Any) -> int:
    try:
        return int(str(value))
    except ValueError as error:
        raise UnusableError("Invalid mode!") from error


def _apply(
    machine: SimulatedMachine, at_s: float, posted: Json, pools: tuple[PoolSetting, ...], mode: int | None
) -> None:
    machine.set_pools(at_s, pools)
    if isinstance(posted.get("bitmain-fan-ctrl"), bool):
        machine.fan_control = posted["bitmain-fan-ctrl"]
    fan_pwm, freq_level = str(posted.get("bitmain-fan-pwm", "")), str(posted.get("freq-level", ""))
    machine.fan_pwm = fan_pwm if _percent(fan_pwm) else machine.fan_pwm
    machine.freq_level = freq_level if _percent(freq_level) else machine.freq_level
    plant = machine.plant
    if mode is None:
        plant.restart(at_s)
        return
    asleep = mode == SLEEP_MODE
    wanted = plant.mode if asleep else _MODES[mode]
    if machine.has(Fault.NEEDS_REBOOT):
        machine.staged = (asleep, wanted)
        plant.restart(at_s)
    else:
        _enter(machine, at_s, asleep, wanted)


def _percent(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3


def _enter(machine: SimulatedMachine, at_s: float, asleep: bool, mode: PowerMode) -> None:
    plant = machine.plant
    was_asleep, plant.mode = plant.asleep, mode
    if asleep:
        plant.sleep(at_s)
    elif was_asleep:
        plant.wake(at_s)
    else:
        plant.restart(at_s)


def _reboot(machine: SimulatedMachine, _: WebRequest) -> WebReply:
    outcome = machine.change("web:reboot", "", machine.reboot)
    return WebReply(writes=True, crashed=outcome is not WriteOutcome.IGNORED)


def _blink(machine: SimulatedMachine, request: WebRequest) -> WebReply:
    on = b"true" in request.body

    def apply(_: float) -> None:
        machine.locator_on = on

    machine.change("web:blink", f"on={on}", apply)
    return WebReply(body=packed({"code": "B000" if on else "B100", "stats": "success"}), writes=True)


_WRITES: dict[str, Callable[[SimulatedMachine, WebRequest], WebReply]] = {
    "set_miner_conf": _set_miner_conf,
    "reboot": _reboot,
    "blink": _blink,
}
