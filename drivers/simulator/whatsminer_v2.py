"""Whatsminer API V2, TCP 4028: plain reads, and writes encrypted with a token.

An encrypted write is refused in the machine's own order: base64, then decryption, then permission, then the token,
then the command itself. Only answers to writes that got that far are encrypted too.
"""

import json
from collections.abc import Callable

from drivers.reading import PowerMode
from drivers.simulator import whatsminer_keys as keys
from drivers.simulator.faults import Fault
from drivers.simulator.link import Reply
from drivers.simulator.machine import PoolSetting, SimulatedMachine, WriteOutcome
from drivers.simulator.rpc import Json, packed
from drivers.simulator.whatsminer_v2_reads import (
    BAD_BASE64,
    BAD_JSON,
    BAD_TOKEN,
    DENIED,
    FAILED,
    INVALID,
    OK,
    UNSUPPORTED,
    line,
    message,
    read,
)


def answer(machine: SimulatedMachine, request: Json | None) -> Reply:
    """Answer one request on port 4028: a read, or an encrypted write."""
    if request is None:
        return Reply(body=line(message(machine, BAD_JSON, "invalid json", "E")))
    if "enc" in request:
        return _answer_encrypted(machine, request.get("data"))
    command = request.get("command", request.get("cmd"))
    if not isinstance(command, str):
        return Reply(body=line(message(machine, INVALID, "invalid cmd", "E")))
    body = read(machine, command)
    outcome = "answered" if b'"STATUS":"E"' not in body else "refused"
    machine.record(f"v2:{command[:60]}", "", outcome, writes=False)
    return Reply(body=body)


def _answer_encrypted(machine: SimulatedMachine, data: object) -> Reply:
    try:
        opened = keys.open_envelope(machine, data)
    except keys.NotBase64Error:
        return _refusal(machine, "v2:?", BAD_BASE64, "base64 decode error")
    except keys.NotForUsError:
        return _refusal(machine, "v2:?", BAD_JSON, "enc json load err")
    command = str(opened.get("cmd", opened.get("command", "")))[:60]
    kind = f"v2:{command}"
    if machine.has(Fault.WRITES_CLOSED):
        return _refusal(machine, kind, DENIED, "can't access write cmd")
    if machine.has(Fault.TOKEN_REJECTED) or not keys.valid(machine, opened.get("token")):
        return _refusal(machine, kind, BAD_TOKEN, "check token error")
    parameters = {key: value for key, value in opened.items() if key not in {"cmd", "command", "token"}}
    return _carry_out(machine, command, parameters)


def _refusal(machine: SimulatedMachine, kind: str, code: int, text: str) -> Reply:
    machine.record(kind, "", f"code {code}", writes=True)
    return Reply(body=line(message(machine, code, text, "E")), writes=True)


def _carry_out(machine: SimulatedMachine, command: str, parameters: Json) -> Reply:
    make = _WRITES.get(command)
    if make is None:
        machine.record(f"v2:{command}", "", f"code {UNSUPPORTED}", writes=True)
        return _sealed_reply(machine, message(machine, UNSUPPORTED, "unsupported cmd", "E"))
    summary = json.dumps({key: value for key, value in parameters.items() if "pass" not in key})
    try:
        apply = make(machine, parameters)
    except (ValueError, TypeError, KeyError):
        machine.record(f"v2:{command}", summary, f"code {FAILED}", writes=True)
        return _sealed_reply(machine, message(machine, FAILED, "command error", "E"))
    match machine.change(f"v2:{command}", summary, apply):
        case WriteOutcome.CRASHED:
            return Reply(body=b"", writes=True, crashed=True)
        case WriteOutcome.REFUSED:
            return _sealed_reply(machine, message(machine, FAILED, "command error", "E"))
        case _:
            return _sealed_reply(machine, message(machine, OK, "API command OK"))


def _sealed_reply(machine: SimulatedMachine, body: Json) -> Reply:
    return Reply(body=line({"enc": keys.seal(machine, packed(body))}), writes=True)


Apply = Callable[[float], None]
Make = Callable[[SimulatedMachine, Json], Apply]


def _fraction(machine: SimulatedMachine, parameters: Json, seconds: float) -> Apply:
    percent = int(str(parameters["percent"]))
    if not 0 <= percent <= 100:
        raise ValueError(percent)
    return lambda at_s: machine.set_power_fraction(at_s, percent / 100, seconds=seconds)


def _power_limit(machine: SimulatedMachine, parameters: Json) -> Apply:
    watts = int(str(parameters["power_limit"]))
    if not 0 <= watts <= 99_999:
        raise ValueError(watts)
    fraction = limit_fraction(machine, watts)
    return lambda at_s: machine.set_power_fraction(at_s, fraction, seconds=None)


def limit_fraction(machine: SimulatedMachine, watts: int) -> float:
    """The fraction of full power that a limit leaves; 0 W means no limit."""
    return min(1.0, watts / (machine.exemplar.power_w * 1.05)) if watts else 1.0


def _mode(mode: PowerMode) -> Make:
    return lambda machine, _: lambda at_s: machine.set_mode(at_s, mode)


def _update_pools(machine: SimulatedMachine, parameters: Json) -> Apply:
    pools = tuple(
        PoolSetting(
            url=str(parameters[f"pool{n}"])[:256],
            user=str(parameters[f"worker{n}"])[:256],
            password=str(parameters[f"passwd{n}"])[:256],
        )
        for n in (1, 2, 3)
    )

    def apply(at_s: float) -> None:
        machine.set_pools(at_s, pools)
        machine.plant.restart(at_s)

    return apply


def _init(machine: SimulatedMachine, *, starts: bool) -> Apply:
    def apply(_: float) -> None:
        machine.starts_after_power_cycle = starts

    return apply


def _led(machine: SimulatedMachine, parameters: Json) -> Apply:
    def apply(_: float) -> None:
        machine.locator_on = parameters.get("param") != "auto"

    return apply


_WRITES: dict[str, Make] = {
    "power_off": lambda machine, _: machine.sleep,
    "power_on": lambda machine, _: machine.wake,
    "restart_btminer": lambda machine, _: machine.plant.restart,
    "reboot": lambda machine, _: machine.reboot,
    "set_low_power": _mode(PowerMode.LOW),
    "set_normal_power": _mode(PowerMode.NORMAL),
    "set_high_power": _mode(PowerMode.HIGH),
    "set_power_pct": lambda machine, given: _fraction(machine, given, 1.0),
    "set_power_pct_v2": lambda machine, given: _fraction(machine, given, 180.0),
    "adjust_power_limit": _power_limit,
    "update_pools": _update_pools,
    "disable_btminer_init": lambda machine, _: _init(machine, starts=False),
    "enable_btminer_init": lambda machine, _: _init(machine, starts=True),
    "set_led": _led,
}
